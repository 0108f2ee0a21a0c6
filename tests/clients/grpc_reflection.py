"""A gRPC client that knows nothing of the contracts but what the server's reflection tells it.

Takes the arguments of grpcurl that the quick start uses:
    grpc_reflection.py -plaintext HOST:PORT list
    grpc_reflection.py -plaintext HOST:PORT list SERVICE
    grpc_reflection.py -plaintext [-d JSON] HOST:PORT SERVICE/METHOD
Answers are printed as JSON with the proto names of the fields. Exit code 64 + gRPC code on an error.
"""

import argparse
import sys

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main():
    parser = argparse.ArgumentParser()
    # argparse takes a single dash for long options too.
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("address")
    parser.add_argument("what")
    parser.add_argument("service", nargs="?")
    arguments = parser.parse_args()

    channel = grpc.insecure_channel(arguments.address)
    grpc.channel_ready_future(channel).result(timeout=10)
    database = ProtoReflectionDescriptorDatabase(channel)
    if arguments.what == "list" and arguments.service is None:
        print("\n".join(sorted(database.get_services())))
        return 0
    pool = DescriptorPool(database)
    if arguments.what == "list":
        methods = pool.FindServiceByName(arguments.service).methods
        print("\n".join(f"{arguments.service}.{method.name}" for method in methods))
        return 0
    service, method = arguments.what.rsplit("/", 1)
    found = pool.FindServiceByName(service).FindMethodByName(method)
    request_class = message_factory.GetMessageClass(found.input_type)
    answer_class = message_factory.GetMessageClass(found.output_type)
    call = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=answer_class.FromString,
    )
    request = json_format.Parse(arguments.data, request_class())
    try:
        answer = call(request, timeout=10)
    except grpc.RpcError as error:
        print(f"ERROR:\n  Code: {error.code().name}\n  Message: {error.details()}", file=sys.stderr)
        return 64 + error.code().value[0]
    print(json_format.MessageToJson(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    return 0


sys.exit(main())

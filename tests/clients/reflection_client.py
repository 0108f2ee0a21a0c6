"""A gRPC client that knows nothing of the contracts but what the server's reflection tells it.

Takes the arguments of grpcurl that the quick start uses:
    reflection_client.py -plaintext HOST:PORT list
    reflection_client.py -plaintext HOST:PORT list SERVICE
    reflection_client.py -plaintext [-d JSON] HOST:PORT SERVICE/METHOD
It asks by grpc.reflection.v1, as grpcurl does; `-v1alpha` makes it ask by the older one.
Answers are printed as JSON with the proto names of the fields. Exit code 64 + gRPC code on an error.
"""

import argparse
import sys

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class AsV1(grpc.StreamStreamClientInterceptor):
    """The package knows v1alpha alone; v1 has the same messages under another name."""

    def intercept_stream_stream(self, continuation, details, requests):
        method = details.method.replace("/grpc.reflection.v1alpha.", "/grpc.reflection.v1.")
        return continuation(details._replace(method=method), requests)


def main():
    parser = argparse.ArgumentParser()
    # argparse takes a single dash for long options too.
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-v1alpha", action="store_true")
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("address")
    parser.add_argument("what")
    parser.add_argument("service", nargs="?")
    arguments = parser.parse_args()

    channel = grpc.insecure_channel(arguments.address)
    grpc.channel_ready_future(channel).result(timeout=10)
    asked = channel if arguments.v1alpha else grpc.intercept_channel(channel, AsV1())
    database = ProtoReflectionDescriptorDatabase(asked)
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

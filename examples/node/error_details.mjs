// Reads what a push manager says of an error beside its code and its text.

import { fileURLToPath } from "node:url";
import protoLoader from "@grpc/proto-loader";

const types = protoLoader.loadSync(fileURLToPath(new URL("error_details.proto", import.meta.url)), {
  keepCase: true,
  longs: Number,
});

/** `reason` is empty where no push manager answered; `waitMs` is when to try again, where it says so. */
export function errorDetails(error) {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  let reason = "";
  let waitMs = 0;
  for (const { type_url, value } of bytes ? (types["google.rpc.Status"].deserialize(bytes).details ?? []) : []) {
    const name = type_url.slice(type_url.lastIndexOf("/") + 1);
    if (name === "google.rpc.ErrorInfo") {
      const info = types[name].deserialize(value);
      if (info.domain === "ringcast") reason = info.reason;
    } else if (name === "google.rpc.RetryInfo") {
      const { seconds = 0, nanos = 0 } = types[name].deserialize(value).retry_delay ?? {};
      waitMs = seconds * 1000 + nanos / 1e6;
    }
  }
  return { reason, waitMs };
}

//! Limits that every gRPC server of ours sets by hand: tonic's own defaults leave HTTP/2 streams and resets
//! unbounded.
//!
//! Owns: the numbers. Talks to: the servers of `control`, `push` and `connect-uring`.

use std::time::Duration;

use tonic::transport::Server;

/// The largest gRPC message that a server decodes, in bytes: a batch of pushes with payloads of 1 MiB fits.
pub const MAX_GRPC_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How often an idle HTTP/2 connection is pinged.
pub const GRPC_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a ping may stay unanswered before the connection is given up.
pub const GRPC_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Streams that one connection may have open at a time.
const MAX_STREAMS_PER_CONNECTION: u32 = 1024;

/// Resets caused by the peer that may wait to be accepted (rapid reset, CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Resets that the peer may provoke us into (CVE-2025-8671).
const MAX_LOCAL_ERROR_RESETS: usize = 256;

/// A tonic server with every limit set.
pub fn limited_server() -> Server {
    Server::builder()
        .max_concurrent_streams(Some(MAX_STREAMS_PER_CONNECTION))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESETS))
        .http2_max_header_list_size(Some(16 * 1024))
        .initial_stream_window_size(Some(1024 * 1024))
        .initial_connection_window_size(Some(4 * 1024 * 1024))
        .http2_keepalive_interval(Some(GRPC_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(GRPC_KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
}

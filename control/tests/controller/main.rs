//! The controller over real gRPC on loopback, with nodes and push managers that the tests play.

mod feed;
mod joins;
mod nodes;
mod peers;
mod restart;
mod rooms;
mod rpc_joins;
mod serving;

//! How every Ringcast service reads its settings: defaults, then `config.yaml`, then the environment, then flags;
//! the later wins. What is wrong stops the start with exit code 2 and one line: key, value, remedy.
//!
//! Owns: the shape of `config.yaml`, the reading of values, the one-line errors, the set-up of logs.
//! Must not: know what a service does with a setting.
//! Talks to: every service's `config.rs`, which declares its flags with clap and lays them over [`File`]:
//!
//! ```
//! #[derive(clap::Parser)]
//! struct Args {
//!     /// The gRPC port.
//!     #[arg(long, env = "GRPC_PORT", value_parser = settings::parse_port)]
//!     grpc_port: Option<u16>,
//!     #[command(flatten)]
//!     common: settings::CommonArgs,
//! }
//!
//! fn port(args: &Args, file: &settings::File) -> u16 {
//!     args.grpc_port.or(file.push.grpc_port).unwrap_or(50053)
//! }
//! # use clap::Parser as _;
//! # let args = Args::parse_from(["service", "--grpc-port", "7"]);
//! # assert_eq!(port(&args, &settings::File::default()), 7);
//! ```

mod command_line;
mod error;
mod file;
mod logs;
mod place;
mod ports;
mod source;
mod stores;
mod stores_etcd;
mod stores_mysql;
mod stores_redis;
mod values;

pub use command_line::{CommonArgs, parse_from, parse_or_exit};
pub use error::{EXIT_CODE, SettingError, exit_with};
pub use file::{
    Connect, ConnectLimits, Database, Etcd, File, IMPLICIT_PATH, Push, Redis, Room, Server, load, parse,
};
pub use logs::{LogFormat, init_logs};
pub use ports::{check_port_free, warn_if_open};
pub use stores::{EtcdStore, MysqlStore, RedisStore, Stores, refuse_cluster_stores, stores};
pub use values::{parse_address, parse_addresses, parse_duration, parse_port, parse_ws_url};

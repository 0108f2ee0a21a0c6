//! The system under test: a controller, a push manager and connect nodes, each a process of its own.
//!
//! Owns: their settings, ports and folders, and when they are ready. Must not: restart anything that the test did
//! not ask for.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::grpc::{Controller, Pusher};
use crate::ports::free_port;
use crate::{Process, Variant, eventually, http, place};

/// How long a service may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Debug, Clone)]
pub struct SystemPlan {
    /// How many nodes.
    pub nodes: usize,
    /// Shards of each node.
    pub shards: u16,
    /// Under what conditions.
    pub variant: Variant,
    /// `room.default_max_users`; 0: no limit.
    pub max_users: u32,
    /// Lines of `connect.limits`, such as `ping_interval: 1s`.
    pub limits: Vec<String>,
    /// Arguments of the nodes beside `--config`.
    pub node_arguments: Vec<String>,
    /// Variables of all services.
    pub environment: Vec<(String, String)>,
}

impl SystemPlan {
    /// This many nodes of one shard, rooms without limit, under the conditions that the environment names.
    pub fn nodes(nodes: usize) -> Self {
        Self {
            nodes,
            shards: 1,
            variant: Variant::from_env(),
            max_users: 0,
            limits: Vec::new(),
            node_arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// One more of the nodes' limits.
    pub fn limit(mut self, line: &str) -> Self {
        self.limits.push(line.into());
        self
    }

    /// One more argument of the nodes.
    pub fn node_argument(mut self, argument: &str) -> Self {
        self.node_arguments.push(argument.into());
        self
    }

    /// One more variable of all services.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Shards of each node.
    pub fn shards(mut self, shards: u16) -> Self {
        self.shards = shards;
        self
    }

    /// Under these conditions.
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }
}

/// A service: its process, and where it listens.
pub struct Service {
    /// Its id.
    pub id: String,
    /// The process.
    pub process: Process,
    /// Its gRPC server.
    pub grpc: SocketAddr,
    /// Its metrics.
    pub metrics: SocketAddr,
    /// A node's HTTP and WebSocket port; of the others, port 0.
    pub http: SocketAddr,
    binary: &'static str,
    config: PathBuf,
}

impl Service {
    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.process.signal(libc::SIGTERM);
        self.process.wait(timeout)
    }

    /// Starts a service with this configuration, on these ports: gRPC, metrics, HTTP. What is done to the command
    /// last, `prepare` does.
    pub fn launch(
        folder: &Path,
        binary: &'static str,
        id: &str,
        config: &str,
        [grpc, metrics, http]: [u16; 3],
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let path = folder.join(format!("{id}.yaml"));
        std::fs::write(&path, config).expect("a file in our own folder");
        let process = launch(Variant::from_env(), &[], folder, binary, id, &path, prepare);
        let (grpc, metrics, http) = (local(grpc), local(metrics), local(http));
        Self { id: id.into(), process, grpc, metrics, http, binary, config: path }
    }

    /// Starts it again, on its old ports and with its folder.
    pub fn again(&self, folder: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        let process = launch(Variant::from_env(), &[], folder, self.binary, &self.id, &self.config, prepare);
        Self { id: self.id.clone(), process, config: self.config.clone(), ..*self }
    }

    /// `/stats` of a node.
    pub fn stats(&self) -> anyhow::Result<serde_json::Value> {
        http::get(self.http, "/stats")?.json()
    }

    /// The sum of a metric over all its labels; 0 where it is not there.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        self.metric_with(name, "")
    }

    /// The same, of those alone that have this among their labels, as `method="Push"`.
    pub fn metric_with(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = http::get(self.metrics, "/metrics")?.body;
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let found = series.split('{').next()?;
            (found == name && series.contains(label)).then(|| value.parse::<f64>().ok()).flatten()
        });
        Ok(values.sum())
    }
}

/// The system.
pub struct System {
    /// The controller.
    pub control: Service,
    /// The push manager.
    pub push: Service,
    /// The nodes.
    pub nodes: Vec<Service>,
    plan: SystemPlan,
    folder: TempDir,
}

impl System {
    /// Starts all of it and waits until a client could join and a push be made.
    pub async fn start(plan: SystemPlan) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        open_to_all(folder.path());
        let control = start_control(&plan, folder.path());
        let push = start_push(&plan, folder.path(), control.grpc);
        let nodes = (1..=plan.nodes).map(|number| start_node(&plan, folder.path(), number, control.grpc));
        let nodes = nodes.collect();
        let system = Self { control, push, nodes, plan, folder };
        system.ready().await;
        system
    }

    /// Waits until every service does its work.
    pub async fn ready(&self) {
        let controller = self.controller().await;
        self.pusher().await;
        let mut client = controller.0.clone();
        eventually("all nodes are registered", READY_TIMEOUT, async || {
            let nodes = client.list_nodes(ringcast_proto::pubsub::ListNodesRequest {}).await;
            let nodes = nodes.map_err(|status| status.to_string())?.into_inner().nodes;
            let ready = nodes.iter().filter(|node| node.state == 0).count();
            if ready == self.nodes.len() { Ok(()) } else { Err(format!("{nodes:?}")) }
        })
        .await;
        for node in &self.nodes {
            // A plain GET asks what a join would be told: 426 where it would be accepted. Each shard has to know
            // that the controller is there, and the kernel chooses the shard of a connection.
            eventually(&format!("{} takes clients", node.id), READY_TIMEOUT, async || {
                for _ in 0..8 * self.plan.shards {
                    let answer = http::get(node.http, "/ws?user_id=probe&room_id=probe");
                    let answer = answer.map_err(|error| error.to_string())?;
                    if answer.status != 426 {
                        return Err(format!("{answer:?}"));
                    }
                }
                Ok(())
            })
            .await;
        }
    }

    /// A client of the controller, as soon as that answers.
    pub async fn controller(&self) -> Controller {
        eventually("the controller answers", READY_TIMEOUT, async || {
            let controller =
                Controller::connect(self.control.grpc).await.map_err(|error| error.to_string())?;
            controller.sessions().await.map_err(|status| status.to_string())?;
            Ok::<_, String>(controller)
        })
        .await
    }

    /// A client of the push manager, as soon as that has its routes.
    pub async fn pusher(&self) -> Pusher {
        eventually("the push manager has its routes", READY_TIMEOUT, async || {
            let pusher = Pusher::connect(self.push.grpc).await.map_err(|error| error.to_string())?;
            pusher.user("nobody-is-called-so", b"?").await.map_err(|status| status.to_string())?;
            Ok::<_, String>(pusher)
        })
        .await
    }

    /// A publisher on the push manager.
    pub async fn publisher(&self) -> loadgen::Publisher {
        self.pusher().await;
        loadgen::Publisher::connect(&self.push.grpc.to_string()).await.expect("the push manager answers")
    }

    /// Starts the controller again, on its old port and folder.
    pub fn restart_control(&mut self) {
        self.control = restart(&self.plan, self.folder.path(), &self.control);
    }

    /// Starts the push manager again, on its old port.
    pub fn restart_push(&mut self) {
        self.push = restart(&self.plan, self.folder.path(), &self.push);
    }

    /// Starts a node again, on its old ports.
    pub fn restart_node(&mut self, index: usize) {
        self.nodes[index] = restart(&self.plan, self.folder.path(), &self.nodes[index]);
    }
}

/// Free ports for gRPC, metrics and HTTP.
pub fn free_ports() -> [u16; 3] {
    [free_port(), free_port(), free_port()]
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Other users can work in the folder.
fn open_to_all(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).expect("our own folder");
}

fn start_control(plan: &SystemPlan, folder: &Path) -> Service {
    let (grpc, metrics) = (free_port(), free_port());
    let data = folder.join("control-data");
    std::fs::create_dir_all(&data).expect("a folder in our own");
    open_to_all(&data);
    let config = format!(
        "server:\n  id: controller-1\n  port: {grpc}\n  metrics_port: {metrics}\n  data_dir: {}\n\
         room:\n  default_max_users: {}\n",
        data.display(),
        plan.max_users
    );
    start(plan, folder, "control", "controller-1", &config, [grpc, metrics, 0])
}

fn start_push(plan: &SystemPlan, folder: &Path, control: SocketAddr) -> Service {
    let (grpc, metrics) = (free_port(), free_port());
    let config = format!(
        "push:\n  id: push-manager-1\n  grpc_port: {grpc}\n  metrics_port: {metrics}\n  \
         controller_address: '{control}'\n"
    );
    start(plan, folder, "push", "push-manager-1", &config, [grpc, metrics, 0])
}

fn start_node(plan: &SystemPlan, folder: &Path, number: usize, control: SocketAddr) -> Service {
    let (grpc, metrics, http) = (free_port(), free_port(), free_port());
    let id = format!("connect-node-{number}");
    let mut config = format!(
        "connect:\n  node_id: {id}\n  grpc_port: {grpc}\n  http_port: {http}\n  metrics_port: {metrics}\n  \
         controller_address: '{control}'\n  shards: {}\n  driver: {}\n",
        plan.shards,
        plan.variant.driver_setting()
    );
    if !plan.limits.is_empty() {
        config += &format!("  limits:\n    {}\n", plan.limits.join("\n    "));
    }
    start(plan, folder, "connect-uring", &id, &config, [grpc, metrics, http])
}

fn start(
    plan: &SystemPlan,
    folder: &Path,
    binary: &'static str,
    id: &str,
    config: &str,
    [grpc, metrics, http]: [u16; 3],
) -> Service {
    let path = folder.join(format!("{id}.yaml"));
    std::fs::write(&path, config).expect("a file in our own folder");
    let process = launch(plan.variant, arguments(plan, binary), folder, binary, id, &path, variables(plan));
    let (grpc, metrics, http) = (local(grpc), local(metrics), local(http));
    Service { id: id.into(), process, grpc, metrics, http, binary, config: path }
}

fn restart(plan: &SystemPlan, folder: &Path, former: &Service) -> Service {
    let (variant, arguments) = (plan.variant, arguments(plan, former.binary));
    let process =
        launch(variant, arguments, folder, former.binary, &former.id, &former.config, variables(plan));
    Service { id: former.id.clone(), process, config: former.config.clone(), ..*former }
}

fn arguments<'a>(plan: &'a SystemPlan, binary: &str) -> &'a [String] {
    if binary == "connect-uring" { &plan.node_arguments } else { &[] }
}

/// Sets the variables of a plan.
fn variables(plan: &SystemPlan) -> impl FnOnce(&mut Command) {
    |command| {
        command.envs(plan.environment.iter().map(|(name, value)| (name, value)));
    }
}

/// Held from the copy of a binary to the start of a process: a child that another test forks in between would
/// hold the copy open for writing, and what is open for writing cannot be run.
static LAUNCH: Mutex<()> = Mutex::new(());

fn launch(
    variant: Variant,
    arguments: &[String],
    folder: &Path,
    binary: &str,
    id: &str,
    config: &Path,
    prepare: impl FnOnce(&mut Command),
) -> Process {
    let _launch = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
    let mut path = place::binary(binary);
    if variant.drops_root() {
        // The build may lie where only its owner may look.
        let copy = folder.join(binary);
        if !copy.exists() {
            std::fs::copy(&path, &copy).expect("room for a copy of the binary");
        }
        path = copy;
    }
    let mut command = Command::new(path);
    command.arg("--config").arg(config).args(arguments).current_dir(folder).env_clear();
    command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()));
    command.env("PATH", "/usr/bin:/bin");
    variant.apply(&mut command);
    prepare(&mut command);
    Process::start(id, &mut command)
}

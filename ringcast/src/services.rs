//! Controller and push manager on one runtime.
//!
//! Owns: their start and their stop, the push manager first. Talks to: the controller over gRPC, as anyone would.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use ringcast_proto::pubsub::{ListNodesRequest, NodeInfo, NodeState};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long the nodes may take to register before the banner is shown without them.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

/// The running services.
pub(crate) struct Services {
    pub(crate) control: control::Running,
    pub(crate) push: push::Running,
    stop_control: CancellationToken,
    stop_push: CancellationToken,
}

impl Services {
    /// Starts both.
    pub(crate) async fn start(control: control::Settings, push: push::Settings) -> Result<Self> {
        let (stop_control, stop_push) = (CancellationToken::new(), CancellationToken::new());
        let control = control::start(control, stop_control.clone()).await?;
        let push = push::start(push, stop_push.clone()).await?;
        Ok(Self { control, push, stop_control, stop_push })
    }

    /// Stops the push manager, then the controller.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop_push.cancel();
        self.push.stopped().await;
        self.stop_control.cancel();
        self.control.stopped().await
    }
}

/// Waits until `nodes` nodes have registered with the controller at `address`, and says what it knows of them.
pub(crate) async fn wait_for_nodes(address: &str, nodes: usize) -> Result<Vec<NodeInfo>> {
    let connected = ControllerServiceClient::connect(format!("http://{address}")).await;
    let mut controller = connected.with_context(|| format!("the controller does not answer at {address}"))?;
    let deadline = Instant::now() + REGISTER_WITHIN;
    loop {
        let known = controller.list_nodes(ListNodesRequest {}).await?.into_inner().nodes;
        let ready = known.iter().filter(|node| node.state() == NodeState::Ready).count();
        if ready >= nodes {
            return Ok(known);
        }
        if Instant::now() > deadline {
            tracing::warn!(ready, nodes, "not every node has registered yet");
            return Ok(known);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

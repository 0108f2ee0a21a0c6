//! Where services are looked up and registered.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{Entry, Registration, View, fixed};

/// The directory that a service uses.
#[derive(Debug, Clone)]
pub struct Directory {
    view: watch::Receiver<Arc<View>>,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// The sender of a fixed list, which never speaks again; whoever watches waits.
    Fixed { _view: Arc<watch::Sender<Arc<View>>> },
    #[cfg(feature = "etcd")]
    Etcd(crate::etcd::Registry),
}

impl Directory {
    /// Controllers at these host:port, and nobody else.
    pub fn fixed(controllers: Vec<String>) -> Self {
        let (sender, view) = watch::channel(fixed::view(controllers));
        Self { view, source: Source::Fixed { _view: Arc::new(sender) } }
    }

    /// All services that are registered in etcd. That etcd is away is no error: it is tried on, and the view says
    /// that it was never read. Needs a tokio runtime; `stop` ends the reading, but no registration.
    #[cfg(feature = "etcd")]
    pub fn etcd(
        store: &settings::EtcdStore,
        stop: tokio_util::sync::CancellationToken,
    ) -> Result<Self, crate::RegistryError> {
        let (registry, view) = crate::etcd::open(store, stop)?;
        Ok(Self { view, source: Source::Etcd(registry) })
    }

    /// The list as it is known now.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The list whenever it changes; its age changes without.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Whether the list is a setting, so that nobody registers and no lease exists.
    pub fn is_fixed(&self) -> bool {
        self.view.borrow().fixed
    }

    /// Registers a service for as long as the registration is held: its key is made only where nobody has it, and
    /// made again whenever it was lost. At fixed addresses nothing happens, and the lease is
    /// [`Lease::Fixed`](crate::Lease::Fixed).
    pub fn register(&self, entry: Entry) -> Registration {
        match &self.source {
            Source::Fixed { .. } => {
                drop(entry);
                Registration::fixed()
            }
            #[cfg(feature = "etcd")]
            Source::Etcd(registry) => registry.register(entry, self.view.clone()),
        }
    }
}

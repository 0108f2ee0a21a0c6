//! What stops the start of a directory. That etcd is away does not.

use settings::SettingError;

/// A directory that cannot be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// A setting with which etcd can never be reached, such as a certificate that is none.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

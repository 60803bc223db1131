//! Identifiers of media objects: short strings, unique within a worker, cheap to copy around.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "shared_text")] Arc<str>);

        impl $name {
            /// A fresh random identifier (a UUID of version 4).
            #[must_use]
            pub fn random() -> Self {
                Self::from(uuid::Uuid::new_v4().to_string())
            }

            /// The identifier's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub(crate) fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<Arc<str>> for $name {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )* };
}

ids! {
    /// Names a [`crate::WebRtcServer`].
    WebRtcServerId
    /// Names a [`crate::Router`].
    RouterId
    /// Names a transport of any sort.
    TransportId
    /// Names a [`crate::Producer`].
    ProducerId
    /// Names a [`crate::Consumer`].
    ConsumerId
    /// Names a [`crate::DataProducer`].
    DataProducerId
    /// Names a [`crate::DataConsumer`].
    DataConsumerId
    /// Names an [`crate::AudioLevelObserver`] or [`crate::ActiveSpeakerObserver`].
    RtpObserverId
}

/// serde for `Arc<str>` without the `rc` feature.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        Ok(String::deserialize(deserializer)?.into())
    }
}

//! Room types: which role may send what, and who receives whose. Declared as data, enforced by the room when it
//! admits producers and creates consumers; a client cannot talk its way around it.

use std::collections::BTreeMap;
use std::fmt;

use ortc::MediaKind;
use serde::{Deserialize, Serialize};

/// The name of a role within a room type, for example `judge`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Role(String);

impl Role {
    /// A role by name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The role's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a producer shows or plays, from `appData.source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `microphone`, `mic`, `audio`, or an audio producer that says nothing.
    Microphone,
    /// `camera`, `webcam`, `cam`, `video`, or a video producer that says nothing.
    Camera,
    /// `screen`, `screensharing`, `share`, or `share: true`.
    Screen,
    /// Anything else, as declared (cut to 64 bytes).
    Other(String),
}

impl Source {
    /// Reads what mediasoup applications write into `appData`: `source` as text, or a true `share` or `sharing`.
    pub fn from_app_data(kind: MediaKind, app_data: &serde_json::Value) -> Self {
        let flag = |name: &str| app_data.get(name).and_then(serde_json::Value::as_bool) == Some(true);
        if flag("share") || flag("sharing") {
            return Self::Screen;
        }
        let declared =
            app_data.get("source").and_then(serde_json::Value::as_str).map(str::to_ascii_lowercase);
        match declared.as_deref() {
            Some("microphone" | "mic" | "audio") => Self::Microphone,
            Some("camera" | "webcam" | "cam" | "video") => Self::Camera,
            Some("screen" | "screensharing" | "screenshare" | "share") => Self::Screen,
            Some(other) if !other.is_empty() => Self::Other(other.chars().take(16).collect()),
            _ => match kind {
                MediaKind::Audio => Self::Microphone,
                MediaKind::Video => Self::Camera,
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Microphone => "microphone",
            Self::Camera => "camera",
            Self::Screen => "screen",
            Self::Other(other) => other,
        })
    }
}

/// A pattern over media; what is left out matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaMatch {
    /// Only this kind.
    pub kind: Option<MediaKind>,
    /// Only this source.
    pub source: Option<Source>,
}

impl MediaMatch {
    /// The pattern that matches all media.
    pub const ANY: Self = Self { kind: None, source: None };

    fn matches(&self, kind: MediaKind, source: &Source) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.source.as_ref().is_none_or(|wanted| wanted == source)
    }
}

/// What one role may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolePolicy {
    /// Media that it may send. None listed: it only listens.
    pub produces: Vec<MediaMatch>,
    /// Media that it receives, by the sender's role.
    pub receives: BTreeMap<Role, Vec<MediaMatch>>,
}

/// A named table of roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomType {
    /// For example `open`.
    pub name: String,
    /// The role of a peer that asks for none.
    pub default_role: Role,
    /// All roles.
    pub roles: BTreeMap<Role, RolePolicy>,
}

/// A room type that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// `default_role` is not among the roles.
    #[error("room type {room_type:?}: default_role {role:?} is not defined under roles")]
    UnknownDefault {
        /// The room type.
        room_type: String,
        /// The role.
        role: String,
    },
    /// A role receives from one that does not exist.
    #[error(
        "room type {room_type:?}: role {role:?} receives from {from:?}, which is not defined under roles"
    )]
    UnknownSender {
        /// The room type.
        room_type: String,
        /// The receiving role.
        role: String,
        /// The missing one.
        from: String,
    },
}

impl RoomType {
    /// Everyone sends to everyone.
    pub fn open() -> Self {
        let member = Role::new("member");
        let policy = RolePolicy {
            produces: vec![MediaMatch::ANY],
            receives: BTreeMap::from([(member.clone(), vec![MediaMatch::ANY])]),
        };
        Self {
            name: "open".to_owned(),
            default_role: member.clone(),
            roles: BTreeMap::from([(member, policy)]),
        }
    }

    /// Checks that every role named is defined; a server does this before it opens a socket.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if !self.roles.contains_key(&self.default_role) {
            let (room_type, role) = (self.name.clone(), self.default_role.0.clone());
            return Err(PolicyError::UnknownDefault { room_type, role });
        }
        for (role, policy) in &self.roles {
            if let Some(from) = policy.receives.keys().find(|from| !self.roles.contains_key(*from)) {
                let (room_type, role, from) = (self.name.clone(), role.0.clone(), from.0.clone());
                return Err(PolicyError::UnknownSender { room_type, role, from });
            }
        }
        Ok(())
    }

    /// Whether the type defines this role.
    pub fn has_role(&self, role: &Role) -> bool {
        self.roles.contains_key(role)
    }

    /// Whether `role` may send this.
    pub fn may_produce(&self, role: &Role, kind: MediaKind, source: &Source) -> bool {
        self.roles.get(role).is_some_and(|policy| policy.produces.iter().any(|m| m.matches(kind, source)))
    }

    /// Whether a peer of this role may send messages: it may where it may send anything.
    pub fn may_produce_data(&self, role: &Role) -> bool {
        self.roles.get(role).is_some_and(|policy| !policy.produces.is_empty())
    }

    /// Whether a peer of role `to` receives messages from a peer of role `from`: it does where it receives anything.
    pub fn may_receive_data(&self, from: &Role, to: &Role) -> bool {
        let media = self.roles.get(to).and_then(|policy| policy.receives.get(from));
        media.is_some_and(|media| !media.is_empty())
    }

    /// Whether a peer of role `to` receives this from a peer of role `from`.
    pub fn may_receive(&self, from: &Role, to: &Role, kind: MediaKind, source: &Source) -> bool {
        self.roles
            .get(to)
            .and_then(|policy| policy.receives.get(from))
            .is_some_and(|media| media.iter().any(|m| m.matches(kind, source)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_separates_kinds_sources_and_roles() {
        let stage = RoomType {
            name: "stage".to_owned(),
            default_role: Role::new("audience"),
            roles: serde_json::from_value(json!({
                "speaker": { "produces": [{}], "receives": { "speaker": [{}] } },
                "audience": {
                    "produces": [],
                    "receives": { "speaker": [{ "kind": "audio" }, { "source": "screen" }] },
                },
            }))
            .expect("table"),
        };
        stage.validate().expect("valid");
        let (speaker, audience) = (Role::new("speaker"), Role::new("audience"));
        assert!(stage.may_produce(&speaker, MediaKind::Video, &Source::Camera));
        assert!(!stage.may_produce(&audience, MediaKind::Audio, &Source::Microphone));
        assert!(stage.may_receive(&speaker, &audience, MediaKind::Audio, &Source::Microphone));
        assert!(stage.may_receive(&speaker, &audience, MediaKind::Video, &Source::Screen));
        assert!(!stage.may_receive(&speaker, &audience, MediaKind::Video, &Source::Camera));
        assert!(!stage.may_receive(&audience, &speaker, MediaKind::Audio, &Source::Microphone));
        assert!(!stage.may_produce(&Role::new("stranger"), MediaKind::Audio, &Source::Microphone));
    }

    #[test]
    fn a_role_that_is_named_but_not_defined_is_an_error() {
        let mut room_type = RoomType::open();
        room_type.default_role = Role::new("guest");
        assert!(matches!(room_type.validate(), Err(PolicyError::UnknownDefault { .. })));
    }

    #[test]
    fn sources_are_read_as_known_applications_write_them() {
        let of = |kind, value| Source::from_app_data(kind, &value);
        assert_eq!(of(MediaKind::Video, json!({})), Source::Camera);
        assert_eq!(of(MediaKind::Audio, json!({ "source": "" })), Source::Microphone);
        assert_eq!(of(MediaKind::Video, json!({ "share": true })), Source::Screen);
        assert_eq!(of(MediaKind::Video, json!({ "source": "screensharing" })), Source::Screen);
        assert_eq!(of(MediaKind::Video, json!({ "source": "video" })), Source::Camera);
        assert_eq!(of(MediaKind::Video, json!({ "source": "Drone" })), Source::Other("drone".to_owned()));
    }
}

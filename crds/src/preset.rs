//! What is known of providers: how a key travels to each, to which addresses, what its programs want in their environment, and
//! which addresses hand out keys, keep files or change accounts.
//!
//! The knowledge is data, one file for each provider in `crds/presets`, and reads as the part of an AgentCredential that it
//! stands for. Nothing here decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::credential::{CredentialHost, Injection, PinnedHeader, PlaceholderEnv};

/// Declares the presets once, so that the list and the files cannot drift apart.
macro_rules! presets {
    ($($(#[$doc:meta])* $name:ident => $file:literal,)+) => {
        /// Providers that are known.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum Preset {
            $($(#[$doc])* $name,)+
        }

        impl Preset {
            /// Every preset.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name as it is written in an AgentCredential.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What it stands for.
            ///
            /// # Errors
            /// Only when the file itself cannot be read, which a test rules out.
            pub fn definition(self) -> Result<Definition, serde_yaml::Error> {
                serde_yaml::from_str(match self {
                    $(Self::$name => include_str!(concat!("../presets/", $file)),)+
                })
            }
        }
    };
}

presets! {
    /// api.anthropic.com.
    Anthropic => "anthropic.yaml",
    /// api.openai.com.
    OpenAI => "openai.yaml",
    /// generativelanguage.googleapis.com.
    Gemini => "gemini.yaml",
    /// api.github.com.
    GitHub => "github.yaml",
    /// gitlab.com.
    GitLab => "gitlab.yaml",
    /// registry.npmjs.org.
    Npm => "npm.yaml",
    /// pypi.org.
    PyPI => "pypi.yaml",
    /// crates.io.
    Crates => "crates.yaml",
    /// huggingface.co.
    HuggingFace => "huggingface.yaml",
    /// slack.com.
    Slack => "slack.yaml",
}

/// The part of an AgentCredential that a preset stands for, and what it leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Definition {
    /// Where in a request the secret is put.
    pub inject: Injection,
    /// Where it may go.
    pub hosts: Vec<CredentialHost>,
    /// What the provider's programs want in their environment.
    pub placeholder_env: Vec<PlaceholderEnv>,
    /// Path globs that are left out on each host, also on one that an AgentCredential writes itself, unless its paths name
    /// them.
    pub except_paths: Vec<String>,
    /// Header fields by which a request chooses an account or a tenant: taken out unless an AgentCredential pins them.
    #[serde(default)]
    pub pinned_headers: Vec<PinnedHeader>,
}

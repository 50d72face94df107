//! The JSON Schemas (2020-12) of what the proxy reads and of what it writes, generated from the types that do both, so
//! that a schema cannot say otherwise than the program. A schema knows shapes: that a document fits is needed for it to be
//! valid, and not enough; `check` says the rest.

use agentsandbox_policy::document::PolicyDocument;
use clap::ValueEnum;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};

use crate::audit::Record;

/// What there is a schema of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Described {
    /// The policy document, `policy.agentsandbox.dev/v1`.
    Policy,
    /// One line of the audit trail, version 1.
    Audit,
}

impl Described {
    /// The schema as indented JSON, with a line end.
    #[must_use]
    pub fn schema(self) -> String {
        let settings = SchemaSettings::draft2020_12();
        match self {
            Self::Policy => text::<PolicyDocument>(settings.for_deserialize().into_generator()),
            Self::Audit => text::<Record>(settings.for_serialize().into_generator()),
        }
    }
}

fn text<T: JsonSchema>(generator: SchemaGenerator) -> String {
    format!("{:#}\n", generator.into_root_schema_for::<T>().as_value())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use jsonschema::Validator;
    use serde_json::Value;

    use super::*;

    static AUDIT: LazyLock<Validator> = LazyLock::new(|| {
        let schema = serde_json::from_str(&Described::Audit.schema()).unwrap();
        jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
    });

    /// Every line that a unit test reads is asked for this.
    pub(crate) fn audit_line_fits(line: &Value) {
        assert!(AUDIT.is_valid(line), "{line}: {:?}", AUDIT.iter_errors(line).next());
    }
}

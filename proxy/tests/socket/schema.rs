//! Each document that a test gives the proxy and each audit line that the proxy writes fits its published schema: every
//! world asks for this here when it is built and when it ends.

use std::sync::LazyLock;

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::schema::Described;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::entrances::to;
use crate::world::{get, over_http1, standalone};

static POLICY: LazyLock<Validator> = LazyLock::new(|| validator(Described::Policy));
static AUDIT: LazyLock<Validator> = LazyLock::new(|| validator(Described::Audit));
static AUDIT_FIELDS: LazyLock<Value> = LazyLock::new(|| schema(Described::Audit)["properties"].clone());

fn schema(of: Described) -> Value {
    serde_json::from_str(&of.schema()).unwrap()
}

fn validator(of: Described) -> Validator {
    jsonschema::options().should_validate_formats(true).build(&schema(of)).unwrap()
}

pub fn policy_fits(text: &str) {
    let document: Value = serde_yaml::from_str(text).unwrap();
    assert!(POLICY.is_valid(&document), "{:?}", POLICY.iter_errors(&document).next());
}

pub fn audit_line_fits(line: &Value) {
    assert!(AUDIT.is_valid(line), "{line}: {:?}", AUDIT.iter_errors(line).next());
    for field in line.as_object().unwrap().keys() {
        assert!(AUDIT_FIELDS.get(field).is_some(), "{field} is not in the schema");
    }
}

#[tokio::test]
async fn an_audit_line_carries_the_version_of_its_schema_and_no_other_shape_fits() {
    let world = standalone(&["http/1.1"]).await;
    over_http1(to(&world, Entrance::HttpProxy).await, get("http://evil.test/", "evil.test")).await;
    let line = &world.audit(1).await[0];
    audit_line_fits(line);
    assert_eq!(line["version"], 1);
    for (field, value) in [
        ("version", json!(2)),
        ("time", json!("yesterday")),
        ("seq", json!(-1)),
        ("sandbox", json!("team")),
        ("entrance", json!("window")),
        ("decision", json!("maybe")),
        ("reason", json!("Weather")),
        ("port", json!(70_000)),
    ] {
        let mut other = line.clone();
        other[field] = value;
        assert!(!AUDIT.is_valid(&other), "{other}");
    }
}

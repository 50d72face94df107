//! The cases of `cases.yaml`, as the local test and the cluster's test both read them.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The cases of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// Its name.
    pub kind: String,
    /// An object that breaks no rule.
    pub base: Value,
    /// A case for each rule.
    pub cases: Vec<Case>,
}

/// One rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Where in the schema it stands.
    pub at: String,
    /// The beginning of its message.
    pub message: String,
    /// Fields of the object as it was, for a rule about changes; absent for a rule about an object.
    #[serde(default)]
    before: Option<Map<String, Value>>,
    /// Fields of an object that keeps it.
    accepted: Map<String, Value>,
    /// Fields of an object that breaks it, and no other.
    rejected: Map<String, Value>,
}

pub fn all() -> Vec<Kind> {
    serde_yaml::from_str(include_str!("cases.yaml")).expect("the cases are as the types say")
}

impl Case {
    pub fn before(&self, base: &Value) -> Option<Value> {
        self.before.as_ref().map(|before| with(base, before))
    }

    pub fn accepted(&self, base: &Value) -> Value {
        with(base, &self.accepted)
    }

    pub fn rejected(&self, base: &Value) -> Value {
        with(base, &self.rejected)
    }
}

/// `base` with fields set by JSON pointer, and removed where the value is null.
fn with(base: &Value, fields: &Map<String, Value>) -> Value {
    let mut object = base.clone();
    for (pointer, value) in fields {
        let (parent, field) = pointer.rsplit_once('/').expect("a JSON pointer begins with /");
        let parent = object.pointer_mut(parent).and_then(Value::as_object_mut).expect("the parent exists");
        if value.is_null() {
            parent.remove(field);
        } else {
            parent.insert(field.to_owned(), value.clone());
        }
    }
    object
}

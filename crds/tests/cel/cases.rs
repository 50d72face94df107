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
    let mut kinds: Vec<Kind> =
        serde_yaml::from_str(include_str!("cases.yaml")).expect("the cases are as the types say");
    let sandbox = kinds.iter().find(|kind| kind.kind == "AgentSandbox").expect("it has cases");
    let (spec, cases) = (sandbox.base["spec"].clone(), sandbox.cases.iter().filter_map(Case::in_template));
    let cases: Vec<Case> = cases.collect();
    let template = kinds.iter_mut().find(|kind| kind.kind == "AgentSandboxTemplate").expect("it has cases");
    template.base["spec"]["sandbox"] = spec;
    template.cases.extend(cases);
    kinds
}

impl Case {
    /// The same of a template, which has the schema of a sandbox but for what it cannot say.
    fn in_template(&self) -> Option<Self> {
        // It may change as it likes: no volume stands behind it.
        let is_here = |at: &&str| self.before.is_none() && !at.starts_with(".templateRef");
        let below = self.at.strip_prefix("spec").filter(is_here)?;
        let moved = |fields: &Map<String, Value>| {
            let pointer = |pointer: &String| match pointer.strip_prefix("/spec") {
                Some(rest) => format!("/spec/sandbox{rest}"),
                None => pointer.clone(),
            };
            fields.iter().map(|(key, value)| (pointer(key), value.clone())).collect()
        };
        Some(Self {
            at: format!("spec.sandbox{below}"),
            message: self.message.clone(),
            before: None,
            accepted: moved(&self.accepted),
            rejected: moved(&self.rejected),
        })
    }

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

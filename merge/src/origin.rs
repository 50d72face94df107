//! Where each field of a merged spec is from.

use serde_json::Value;

/// One field of a merged spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it is, below spec: `egress.allow[0].host`.
    pub path: String,
    /// Its value: a text, a number, or an object or a list without anything in it.
    pub value: Value,
    /// Who said it.
    pub from: Origin,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The sandbox.
    Sandbox,
    /// Its template, and the sandbox nothing else.
    Template,
}

/// Each field of `merged`, where `own` is what the sandbox says.
pub(crate) fn fields(own: &Value, merged: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    walk("", Some(own), merged, &mut found);
    found
}

fn walk(path: &str, own: Option<&Value>, merged: &Value, found: &mut Vec<Field>) {
    match merged {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(&path, own.and_then(|own| own.get(name)), value, found);
            }
        }
        Value::Array(entries) if !entries.is_empty() => {
            for (index, entry) in entries.iter().enumerate() {
                walk(&format!("{path}[{index}]"), counterpart(own, index, entry), entry, found);
            }
        }
        _ => {
            let from = if own == Some(merged) { Origin::Sandbox } else { Origin::Template };
            found.push(Field { path: path.to_owned(), value: merged.clone(), from });
        }
    }
}

/// The entry of the sandbox's own list that an entry of the merged one is: a variable by its name, a folder by its path, a rule by its
/// place, for rules stand in the sandbox's order; and a text by itself.
fn counterpart<'a>(own: Option<&'a Value>, index: usize, entry: &Value) -> Option<&'a Value> {
    let own = own?.as_array()?;
    let key = match entry {
        Value::Object(fields) if fields.contains_key("host") => return own.get(index),
        Value::Object(fields) if fields.contains_key("path") => "path",
        Value::Object(_) => "name",
        _ => return own.iter().find(|one| *one == entry),
    };
    own.iter().find(|one| one[key] == entry[key])
}

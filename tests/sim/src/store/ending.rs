//! How objects end: asked to, held by finalizers, and gone.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Change, Deletion, Key, Refusal, Store, finalizers, has_ended, is_ending, seconds, text};
use crate::kinds::{Kind, NAMESPACES, PODS};

impl Store {
    /// Deletes an object, at once or once its grace and its finalizers are over; answers with it as it is then.
    ///
    /// # Errors
    /// As the API server: it is missing, or is not the one that was meant.
    pub fn delete(
        &mut self,
        kind: &'static Kind,
        (namespace, name): (&str, &str),
        deletion: &Deletion,
    ) -> Result<Value, Refusal> {
        let key = (kind.plural, namespace.to_owned(), name.to_owned());
        let mut object = self.objects.get(&key).ok_or_else(|| Self::missing(kind, name))?.clone();
        let wrong = |wanted: &Option<String>, pointer: &str| {
            wanted.as_deref().is_some_and(|wanted| wanted != text(&object, pointer))
        };
        if wrong(&deletion.uid, "/metadata/uid")
            || wrong(&deletion.resource_version, "/metadata/resourceVersion")
        {
            return Err(Refusal::new(
                409,
                "Conflict",
                format!("{} \"{name}\": the precondition of the deletion does not hold", kind.plural),
            ));
        }
        let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        let placed = *kind == PODS && !text(&object, "/spec/nodeName").is_empty() && !has_ended(&object);
        let grace = if placed { deletion.grace.unwrap_or(own) } else { 0 };
        if let Some(finalizer) = deletion.adds
            && !is_ending(&object)
        {
            let list = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            object["metadata"]["finalizers"] = list.into_iter().chain([json!(finalizer)]).collect();
        }
        if finalizers(&object).is_empty() && grace == 0 {
            // A pod is told to end before it does, though nothing keeps it.
            if *kind == PODS && !is_ending(&object) {
                self.end(&mut object, grace);
                object = self.commit(Change::Modified, kind, &key, object);
            }
            return Ok(self.remove(kind, &key, object));
        }
        let shorter =
            object["metadata"]["deletionGracePeriodSeconds"].as_i64().is_none_or(|before| grace < before);
        if is_ending(&object) && !(placed && shorter) {
            return Ok(object);
        }
        self.end(&mut object, grace);
        Ok(self.commit(Change::Modified, kind, &key, object))
    }

    /// Says of an object that it ends; only the first time is a new generation.
    fn end(&self, object: &mut Value, grace: i64) {
        if !is_ending(object)
            && let Some(generation) = object["metadata"]["generation"].as_i64()
        {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        // It is when the grace is over, counted from when it was first asked for.
        let asked =
            text(object, "/metadata/deletionTimestamp").parse::<Timestamp>().map_or(self.now, |over| {
                let before = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default();
                over - SignedDuration::from_secs(before)
            });
        object["metadata"]["deletionTimestamp"] = json!(seconds(asked + SignedDuration::from_secs(grace)));
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }

    /// The kubelet's word that a pod's containers are gone.
    pub fn gone(&mut self, key: &Key) {
        let Some(mut pod) = self.objects.get(key).cloned() else { return };
        if finalizers(&pod).is_empty() {
            self.remove(&PODS, key, pod);
        } else {
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            self.commit(Change::Modified, &PODS, key, pod);
        }
    }

    /// Takes a namespace's own record away, once it is empty.
    pub fn end_namespace(&mut self, name: &str) {
        let key = (NAMESPACES.plural, String::new(), name.to_owned());
        if let Some(object) = self.objects.get(&key).cloned() {
            self.remove(&NAMESPACES, &key, object);
        }
    }
}

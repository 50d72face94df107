//! What is taken of a source, and folders beside it.

use super::*;

#[test]
fn what_the_template_leaves_out_of_a_source_is_not_taken_back() {
    for pattern in ["!**", "!*", " !secrets", "!*.secret"] {
        let own =
            json!({"workspace": {"git": {"url": "https://github.com/acme/shop.git"}, "exclude": [pattern]}});
        refused(merged(own, &whole()), "workspace.exclude", "sandbox.workspace.exclude");
    }
    let more = json!({"workspace": {"git": {"url": "https://github.com/acme/shop.git"}, "exclude": ["a!b"]}});
    assert!(merged(more, &whole()).is_ok(), "the control");
}

#[test]
fn what_the_template_has_rewritten_of_a_source_is_rewritten_whatever_the_sandbox_says_of_other_files() {
    let archive = || json!({"url": "https://a.test/x", "sha256": "a".repeat(64)});
    let of = json!({"agent": {"image": "a:1"}, "workspace": {"archive": archive(), "sanitize": ["Npmrc", "PipConf"]}});
    let own = |more: Value| {
        let mut workspace = json!({"archive": archive()});
        workspace.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        merged(json!({"workspace": workspace}), &of)
    };
    let found = own(json!({"sanitize": ["Npmrc"]})).unwrap();
    assert_eq!(
        found["workspace"]["sanitize"],
        json!(["Npmrc", "PipConf"]),
        "pip.conf is on no list but this"
    );
    let raw = own(json!({"include": [".env"]}));
    refused(raw, "workspace.include", "sandbox.workspace.sanitize");
    assert!(own(json!({"exclude": ["*.key"]})).is_ok(), "the control");
}

#[test]
fn a_folder_is_compared_with_the_one_of_its_path_and_what_has_to_be_written_is_not_to_be_left_out() {
    let folder = |path: &str, size: &str| json!({"path": path, "sizeLimit": size});
    let of = json!({"agent": {"image": "a:1"}, "scratch": {"additional": [folder("/a", "1Mi"), folder("/b", "2Mi")]}});
    let own = json!({"scratch": {"additional": [folder("/b", "3Mi")]}});
    let found = merged(own, &of);
    let told = found.as_ref().unwrap_err()[0].message.clone();
    refused(found, "scratch.additional[0].sizeLimit", "sandbox.scratch.additional[1].sizeLimit");
    assert!(told.ends_with("write at most 2Mi in sizeLimit"), "{told}");
    let optional = merged(
        json!({"scratch": {"tmp": "2Mi"}}),
        &json!({"agent": {"image": "a:1"}, "scratch": {"tmp": "1Mi"}}),
    );
    let told = optional.unwrap_err()[0].message.clone();
    assert!(told.ends_with("write at most 1Mi in tmp, or leave it out"), "the control: {told}");
}

//! Ordinary tools do their work through the fence: git, pip, npm, and programs that know nothing of proxies.

use agentsandbox_tests::{Namespace, Rig, Sandbox, with_namespace};

use crate::fixtures;

const ECHO_KEY: &str = "echo-real-5b8d1f7720c94e11";

async fn agent(ns: &Namespace, proxy_environment: &str, rules: &[&str]) -> Sandbox {
    let manifest = fixtures::sleeper("dev", fixtures::AGENT_IMAGE, proxy_environment, rules);
    let sandbox = ns.sandbox("dev", &manifest).await;
    sandbox.ready().await;
    sandbox
}

#[tokio::test]
async fn git_clones_and_pushes_a_private_repository_and_shows_why_another_is_refused() {
    let rig = Rig::beside().await;
    rig.world.set_keys([("git", fixtures::GIT_KEY)]).await.unwrap();
    with_namespace(&rig, "git", async |ns| {
        ns.secret("git", "token", fixtures::GIT_KEY).await;
        ns.apply(fixtures::GIT_CREDENTIAL).await.unwrap();
        let dev = agent(&ns, "Set", &["{host: github.com, paths: [\"/acme/shop.git/**\"], credential: git}"]).await;
        dev.sh("cd /workspace && git clone https://github.com/acme/shop.git").await.ok();
        // The world keeps what was pushed, so each run has a branch of its own.
        let push = format!(
            "cd /workspace/shop && git config user.email a@b.test && git config user.name agent && git checkout -q -b {} && \
             echo change >> CHANGED && git add . && git commit -qm change && git push origin HEAD",
            ns.name
        );
        dev.sh(&push).await.ok();
        let refused = dev.sh("cd /workspace && git clone https://github.com/acme/other.git").await.failed();
        assert!(refused.text().contains("403"), "{refused:?}");
        assert!(refused.text().contains("PathNotAllowed") || refused.text().contains("paths"), "git shows no reason: {refused:?}");
    })
    .await;
}

#[tokio::test]
async fn pip_installs_and_twine_upload_is_refused() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "pip", async |ns| {
        let dev = agent(&ns, "Set", &["{host: pypi.world.test, methods: [GET, HEAD]}"]).await;
        let install = "pip install --quiet --no-cache-dir --target /workspace/lib --index-url https://pypi.world.test/simple/ shopkit";
        dev.sh(install).await.ok();
        dev.sh("ls /workspace/lib/shopkit*").await.ok();
        let upload = "cd /workspace && mkdir -p dist && pip download --quiet --no-deps --no-cache-dir -d dist --index-url https://pypi.world.test/simple/ shopkit && \
                      twine upload --non-interactive --disable-progress-bar -u a -p b --repository-url https://pypi.world.test/ dist/*";
        let refused = dev.sh(upload).await.failed();
        assert!(refused.text().contains("403"), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn npm_installs_and_publish_is_refused() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "npm", async |ns| {
        let dev = agent(&ns, "Set", &["{host: npm.world.test, methods: [GET, HEAD]}"]).await;
        let install = "mkdir -p /workspace/app && cd /workspace/app && npm init -y >/dev/null && npm install --no-audit --no-fund --registry https://npm.world.test/ shopkit";
        dev.sh(install).await.ok();
        dev.sh("ls /workspace/app/node_modules/shopkit").await.ok();
        let publish = "cd /workspace/app && npm config set //npm.world.test/:_authToken x && npm publish --registry https://npm.world.test/";
        let refused = dev.sh(publish).await.failed();
        assert!(refused.text().contains("403"), "{refused:?}");
    })
    .await;
}

/// Programs that know nothing of proxies, each with a line of shell that fetches a URL and prints the answer.
const UNAWARE: [(&str, &str); 4] = [
    (
        "node fetch",
        "node -e 'fetch(\"https://echo.world.test/unaware\").then(r => r.text()).then(console.log)'",
    ),
    ("go", "goclient https://echo.world.test/unaware"),
    (
        "python requests",
        "python3 -c 'import requests; print(requests.get(\"https://echo.world.test/unaware\").text)'",
    ),
    ("curl", "curl -sS --noproxy '*' https://echo.world.test/unaware"),
];

#[tokio::test]
async fn p_i1_programs_that_ignore_proxies_are_served_verify_tls_and_get_the_key_injected() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "unaware", async |ns| {
        ns.secret("echo", "token", ECHO_KEY).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        let dev = agent(&ns, "Unset", &["{host: echo.world.test, credential: echo}"]).await;
        for (program, line) in UNAWARE {
            dev.sh(line).await.ok();
            let seen = rig.world.requests_to("echo.world.test").await.unwrap();
            let last = seen
                .iter()
                .rfind(|r| r.path == "/unaware")
                .unwrap_or_else(|| panic!("{program}: nothing arrived"));
            assert_eq!(last.header("authorization"), Some(&*format!("Bearer {ECHO_KEY}")), "{program}");
        }
        let denied = dev.sh("curl -sS --noproxy '*' https://evil.world.test/").await.failed();
        assert!(denied.text().contains("resolve"), "{denied:?}");
        assert!(rig.world.requests_to("evil.world.test").await.unwrap().is_empty());
    })
    .await;
}

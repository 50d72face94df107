//! Manifests that several tests share, written as a user would write them.

/// Image of the test agent: a Debian with curl, git, Python, Node and a Go program; `sleep infinity` by default.
pub const AGENT_IMAGE: &str = "agentsandbox.test/agent:1";

/// Image of the test agent with Claude Code.
pub const CLAUDE_IMAGE: &str = AGENT_IMAGE;

/// The key that the stand-in for api.anthropic.com asks for. It is in one Secret and nowhere else.
pub const ANTHROPIC_KEY: &str = "sk-ant-real-4f1c9e70b2a84d6c8e35";

/// A credential for api.anthropic.com whose Secret is `anthropic`, key `api-key`.
pub const ANTHROPIC_CREDENTIAL: &str = "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentCredential
metadata: {name: anthropic}
spec:
  secretRef: {name: anthropic, key: api-key}
  inject: {type: Header, header: {name: x-api-key}}
  hosts:
  - {host: api.anthropic.com}
  placeholderEnv:
  - {name: ANTHROPIC_API_KEY, value: sk-ant-placeholder}
";

/// A credential whose key goes to echo.world.test as a Bearer token; Secret `echo`, key `token`.
pub const ECHO_CREDENTIAL: &str = "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentCredential
metadata: {name: echo}
spec:
  secretRef: {name: echo, key: token}
  inject: {type: Bearer}
  hosts:
  - {host: echo.world.test}
";

/// The key of the private repositories on github.com.
pub const GIT_KEY: &str = "ghp-real-71c2d0c8a5f94b6e";

/// A credential for them whose Secret is `git`, key `token`.
pub const GIT_CREDENTIAL: &str = "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentCredential
metadata: {name: git}
spec:
  secretRef: {name: git, key: token}
  inject: {type: Basic, basic: {username: x-access-token}}
  hosts:
  - {host: github.com}
";

/// A sandbox that runs `sleep infinity` in `image`, with these lines under `egress.allow`.
pub fn sleeper(name: &str, image: &str, proxy_environment: &str, allow: &[&str]) -> String {
    let rules: String = allow.iter().map(|r| format!("    - {r}\n")).collect();
    format!(
        "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandbox
metadata: {{name: {name}}}
spec:
  className: world
  agent:
    image: {image}
    command: [sleep, infinity]
    proxyEnvironment: {proxy_environment}
  egress:
    allow:
{rules}"
    )
}

/// A sandbox that may reach nothing.
pub fn closed(name: &str) -> String {
    format!(
        "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandbox
metadata: {{name: {name}}}
spec:
  className: world
  agent:
    image: {AGENT_IMAGE}
    command: [sleep, infinity]
"
    )
}

/// The same sandbox with these limits; the manifest must end within its `spec`.
pub fn limited(manifest: &str, limits: &str) -> String {
    format!("{manifest}  resources: {{limits: {{{limits}}}}}\n")
}

/// An ordinary pod of the node's own runtime, without walls, that runs a line of shell.
pub fn plain(name: &str, line: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent", "image": AGENT_IMAGE, "command": ["sh", "-c", line],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// What a plain pod runs that only waits.
pub const WAIT: &str = "exec sleep infinity";

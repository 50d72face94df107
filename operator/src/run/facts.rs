//! What the cluster says of itself once, at the start; its ranges, which are followed, aside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};

use super::StartError;
use crate::backoff::{Jitter, WatchBackoff};
use crate::config::{AskDenials, Config};
use crate::controller::chain;
use crate::platform::Platform;
use crate::ranges::Ranges;

/// What the cluster says of itself, asked for until the API server answers: a process that ended because it did not would be
/// started again with ever longer pauses.
pub(super) async fn known(
    client: &Client,
    config: &Config,
    ranges: &Ranges,
    jitter: Jitter,
) -> Result<Platform, StartError> {
    let mut pauses = WatchBackoff::new(jitter, "Platform");
    loop {
        match (platform(client, config, ranges).await, pauses.next()) {
            (Err(error @ StartError::Cluster(_)), Some(pause)) => {
                tracing::warn!(error = chain(&error), "the API server is asked again");
                tokio::time::sleep(pause).await;
            }
            (result, _) => return result,
        }
    }
}

async fn platform(client: &Client, config: &Config, ranges: &Ranges) -> Result<Platform, StartError> {
    let (api_service, api_endpoints) = match &config.only {
        Some(only) => (only.api_service, only.api_endpoints.clone()),
        None => api_server(client).await?,
    };
    Ok(Platform {
        asks_from: (config.denials == AskDenials::Ask).then(|| config.namespace.clone()),
        proxy_image: config.proxy_image.clone(),
        init_image: config.init_image.clone(),
        cluster_ranges: Arc::clone(&ranges.borrow()),
        cluster_dns: config.cluster_dns,
        api_service,
        api_endpoints,
    })
}

async fn api_server(client: &Client) -> Result<(SocketAddr, Vec<SocketAddr>), StartError> {
    let service = Api::<Service>::namespaced(client.clone(), "default").get("kubernetes").await?;
    let spec = service.spec.unwrap_or_default();
    let address = spec.cluster_ip.and_then(|ip| ip.parse::<IpAddr>().ok());
    let port = spec.ports.iter().flatten().next().and_then(|port| u16::try_from(port.port).ok());
    let (Some(address), Some(port)) = (address, port) else { return Err(StartError::NoApiService) };
    let slices = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default").list(&slices).await?;
    let mut api_endpoints: Vec<SocketAddr> = slices.iter().flat_map(endpoints).collect();
    api_endpoints.sort_unstable();
    api_endpoints.dedup();
    Ok((SocketAddr::new(address, port), api_endpoints))
}

fn endpoints(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports: Vec<u16> =
        slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok()).collect();
    let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
    let all = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    all.flat_map(|address| ports.iter().map(move |port| SocketAddr::new(address, *port))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::sync::watch;

    use super::*;
    use crate::fixtures::api::{Api as FakeApi, Says, refusal};

    #[tokio::test]
    async fn o_r13_an_api_server_that_is_away_at_the_start_is_asked_again() {
        let tries = std::sync::atomic::AtomicUsize::new(0);
        let says: Says = Box::new(move |asked| {
            let first = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            match asked.line.as_str() {
                "GET services/kubernetes" if first => Some(refusal(503, "ServiceUnavailable", "away")),
                "GET services/kubernetes" => {
                    let spec = serde_json::json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]});
                    Some((200, serde_json::json!({"metadata": {"name": "kubernetes"}, "spec": spec})))
                }
                _ => None,
            }
        });
        let api = FakeApi::start(Vec::new(), says).await;
        let flags = ["operator", "run", "--cluster-dns", "10.96.0.10"];
        let crate::config::Command::Run(flags) = crate::config::Cli::try_parse_from(flags).unwrap().command
        else {
            panic!("these are the flags of run")
        };
        let ranges = watch::channel(Arc::from([])).1;
        let config = Config::try_from(*flags).unwrap();
        let platform = known(&api.client, &config, &ranges, Jitter::default()).await.unwrap();
        assert_eq!(platform.api_service, "10.96.0.1:443".parse().unwrap());
    }
}

//! The limit: what hyper and rustls cost when nothing is done but forwarding. No policy, no injection, no audit, no
//! limits; what arrives is sent on. Arguments: address to listen on, base of the upstream, its name, folder of the
//! certificates.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends the run")]

use std::path::Path;
use std::sync::Arc;

use agentsandbox_bench::pki::Pki;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri, Version};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;
type Error = Box<dyn std::error::Error + Send + Sync>;

struct Forwarder {
    client: Client<HttpsConnector<HttpConnector>, Incoming>,
    base: String,
    tls: TlsAcceptor,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, base, name, folder] = <[String; 4]>::try_from(args).unwrap();
    let pki = Pki::at(Path::new(&folder));
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new().with_tls_config(pki.client(&[])).https_or_http();
    let named = connector.with_server_name_resolver(FixedServerNameResolver::new(name.try_into().unwrap()));
    let client =
        Client::builder(TokioExecutor::new()).build(named.enable_all_versions().wrap_connector(http));
    let tls = TlsAcceptor::from(pki.server(&["h2", "http/1.1"]));
    let forwarder = Arc::new(Forwarder { client, base, tls });
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    while let Ok((io, _)) = listener.accept().await {
        io.set_nodelay(true).unwrap();
        tokio::spawn(serve(Arc::clone(&forwarder), io));
    }
}

type Served = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn serve(forwarder: Arc<Forwarder>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Served {
    Box::pin(async move {
        let service = service_fn(move |request| answer(Arc::clone(&forwarder), request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(1024);
        let _ = builder.serve_connection_with_upgrades(TokioIo::new(io), service).await;
    })
}

async fn answer(forwarder: Arc<Forwarder>, mut request: Request<Incoming>) -> Result<Response<Body>, Error> {
    if request.method() == Method::CONNECT {
        tokio::spawn(async move {
            let inner = hyper::upgrade::on(request).await?;
            let tls = forwarder.tls.accept(TokioIo::new(inner)).await?;
            serve(forwarder, tls).await;
            Ok::<_, Error>(())
        });
        return Ok(Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync()));
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = path.strip_prefix("/api").unwrap_or(path);
    *request.uri_mut() = format!("{}{path}", forwarder.base).parse::<Uri>()?;
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(hyper::header::HOST);
    Ok(forwarder.client.request(request).await?.map(BodyExt::boxed_unsync))
}

//! Kubernetes' Container Runtime Interface, version 1, as far as pods and their network go: what kubelet says to a runtime.
//!
//! The messages have the numbers of `cri-api`'s `runtime/v1/api.proto`. Fields that are not used are left out, which the
//! encoding allows.

use std::{collections::BTreeMap, time::Duration};

use http::uri::PathAndQuery;
use prost::Message;
use tests::{Host, Place};
use tonic::{Request, Status, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

/// A call that takes longer is stuck: longer than plugins wait for their own locks.
const STUCK: Duration = Duration::from_secs(60);

/// Who a pod is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
}

/// A published port: of TCP, as the protocol is not said.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PortMapping {
    #[prost(int32, tag = "2")]
    pub(crate) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(crate) host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Linux {
    #[prost(string, tag = "1")]
    pub(crate) cgroup_parent: String,
}

/// What a pod shall be.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodConfig {
    #[prost(message, optional, tag = "1")]
    pub(crate) metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub(crate) hostname: String,
    #[prost(string, tag = "3")]
    pub(crate) log_directory: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) port_mappings: Vec<PortMapping>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodConfig>,
}

/// A pod by its id: what is asked with, and what RunPodSandbox answers.
#[derive(Clone, PartialEq, Message)]
struct PodId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct PodStatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodState>,
    #[prost(btree_map = "string, string", tag = "2")]
    info: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodState {
    #[prost(message, optional, tag = "5")]
    network: Option<PodNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct PodNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

/// What the runtime says of itself: `RuntimeReady`, `NetworkReady`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Condition {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(bool, tag = "2")]
    pub(crate) status: bool,
    #[prost(string, tag = "3")]
    pub(crate) reason: String,
    #[prost(string, tag = "4")]
    pub(crate) message: String,
}

/// What is known of a pod.
#[derive(Debug)]
pub(crate) struct PodStatus {
    /// The first is what Kubernetes calls the pod's IP.
    pub(crate) addresses: Vec<String>,
    /// The runtime's own document about it.
    pub(crate) info: serde_json::Value,
}

/// The client: a socket on a host.
pub(crate) struct Cri<'h> {
    pub(crate) host: &'h Host,
    /// `unix:` and a path.
    pub(crate) address: String,
}

impl Cri<'_> {
    /// Starts a pod, and returns its id.
    pub(crate) fn run(&self, config: PodConfig) -> Result<String, Status> {
        self.call::<_, PodId>("RunPodSandbox", RunRequest { config: Some(config) }).map(|pod| pod.id)
    }

    /// Ends a pod's processes and detaches it.
    pub(crate) fn stop(&self, id: &str) -> Result<(), Status> {
        self.call::<_, Nothing>("StopPodSandbox", PodId { id: id.to_owned() }).map(drop)
    }

    /// Forgets a pod; what of it is not stopped is stopped first.
    pub(crate) fn remove(&self, id: &str) -> Result<(), Status> {
        self.call::<_, Nothing>("RemovePodSandbox", PodId { id: id.to_owned() }).map(drop)
    }

    /// What is known of a pod.
    pub(crate) fn pod(&self, id: &str) -> Result<PodStatus, Status> {
        let request = PodStatusRequest { id: id.to_owned(), verbose: true };
        let answer: PodStatusResponse = self.call("PodSandboxStatus", request)?;
        let network = answer.status.and_then(|status| status.network).unwrap_or_default();
        let further = network.additional_ips.into_iter().map(|address| address.ip);
        let addresses = [network.ip].into_iter().chain(further).filter(|address| !address.is_empty()).collect();
        let info = answer.info.get("info").map_or("null", String::as_str);
        Ok(PodStatus { addresses, info: serde_json::from_str(info).unwrap() })
    }

    /// Whether the runtime and its network are ready, and why not.
    pub(crate) fn conditions(&self) -> Result<Vec<Condition>, Status> {
        let answer: StatusResponse = self.call("Status", Nothing {})?;
        Ok(answer.status.unwrap_or_default().conditions)
    }

    /// One request by a connection of its own, as calls are made from many threads.
    fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}")).unwrap();
        let exchange = async {
            let failed = |error: &dyn std::error::Error| Status::unavailable(format!("{}: {error:?}", self.address));
            let endpoint = Endpoint::from_shared(self.address.clone()).map_err(|error| failed(&error))?;
            let channel = endpoint.connect().await.map_err(|error| failed(&error))?;
            let mut client = Grpc::new(channel);
            client.ready().await.map_err(|error| failed(&error))?;
            client.unary(Request::new(request), path, ProstCodec::default()).await.map(tonic::Response::into_inner)
        };
        let wait = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let late = || Status::deadline_exceeded(format!("{method} takes longer than {STUCK:?}"));
            runtime.block_on(async { tokio::time::timeout(STUCK, exchange).await.map_err(|_| late())? })
        };
        self.host.enter(wait)
    }
}

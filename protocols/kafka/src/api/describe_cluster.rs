//! DescribeCluster: the brokers and who is controller.

use kacrab_protocol::generated::{
    DescribeClusterBroker, DescribeClusterRequestData, DescribeClusterResponseData, ErrorCode,
};

use crate::cluster::{self, text};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 60,
    name: "DescribeCluster",
    min: 0,
    max: 2,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

const ENDPOINT_BROKERS: i8 = 1;

async fn handle(
    call: Call,
    request: DescribeClusterRequestData,
) -> Answer<DescribeClusterResponseData> {
    let image = call.door.metadata.image();
    let mut response = DescribeClusterResponseData::default();
    if request.endpoint_type != ENDPOINT_BROKERS {
        // Controllers have no listener of their own.
        response.error_code = ErrorCode::MismatchedEndpointType.code();
        response.error_message = Some(text("This is a broker endpoint."));
        response.endpoint_type = ENDPOINT_BROKERS;
        return Ok(response);
    }
    let broker = DescribeClusterBroker::default()
        .with_broker_id(image.node_id)
        .with_host(text(&*call.door.config.advertised_host))
        .with_port(i32::from(call.door.config.advertised_port));
    response.cluster_id = text(&*image.cluster_id);
    response.controller_id = image.node_id;
    response.brokers = vec![broker];
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = cluster::ALL_CLUSTER_OPERATIONS;
    }
    Ok(response)
}

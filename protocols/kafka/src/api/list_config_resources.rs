//! ListConfigResources: what can be configured, by type.

use kacrab_protocol::generated::list_config_resources_response::ConfigResource;
use kacrab_protocol::generated::{
    ErrorCode, ListConfigResourcesRequestData, ListConfigResourcesResponseData,
};

use super::describe_configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::cluster::text;
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 74,
    name: "ListConfigResources",
    min: 0,
    max: 1,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

async fn handle(
    call: Call,
    request: ListConfigResourcesRequestData,
) -> Answer<ListConfigResourcesResponseData> {
    let image = call.door.metadata.image();
    let mut response = ListConfigResourcesResponseData::default();
    let mut types = request.resource_types;
    if call.version() == 0 {
        // The first version lists client metrics alone, and there are none.
        return Ok(response);
    }
    if types.iter().any(|kind| !ALL.contains(kind)) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return Ok(response);
    }
    if types.is_empty() {
        types = ALL.into();
    }
    types.sort_unstable();
    types.dedup();
    for kind in types {
        let mut add = |name: &str| {
            let resource = ConfigResource::default()
                .with_resource_name(text(name))
                .with_resource_type(kind);
            response.config_resources.push(resource);
        };
        match kind {
            TOPIC => image.topics.keys().for_each(|name| add(name)),
            BROKER | BROKER_LOGGER => add(&image.node_id.to_string()),
            _ => {}
        }
    }
    Ok(response)
}

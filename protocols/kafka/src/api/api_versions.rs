//! ApiVersions: what is served, in which versions, and the cluster's features.

use kacrab_protocol::generated::*;

use crate::cluster::text;
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::reply::{self, Reply};

pub const API: Api = Api {
    key: 18,
    name: "ApiVersions",
    min: 0,
    max: 4,
    flexible: 3,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// Longest client software name and version that Kafka takes for valid is unbounded; the characters are not.
fn valid_software(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_alphanumeric();
    name.chars().all(inner) && name.starts_with(ends) && name.ends_with(ends)
}

async fn handle(call: Call, request: ApiVersionsRequestData) -> Answer<ApiVersionsResponseData> {
    if call.version() >= 3
        && !(valid_software(request.client_software_name.as_str())
            && valid_software(request.client_software_version.as_str()))
    {
        return Ok(
            ApiVersionsResponseData::default().with_error_code(ErrorCode::InvalidRequest.code())
        );
    }
    let mut response = ranges();
    if call.version() >= 3 {
        let (first, last) = METADATA_VERSIONS;
        let name = || text("metadata.version");
        let supported = SupportedFeatureKey::default().with_name(name());
        response.supported_features =
            vec![supported.with_min_version(first).with_max_version(last)];
        let finalized = FinalizedFeatureKey::default().with_name(name());
        response.finalized_features = vec![
            finalized
                .with_min_version_level(last)
                .with_max_version_level(last),
        ];
        response.finalized_features_epoch = 0;
    }
    Ok(response)
}

/// The only feature that is finalized, at the level of Kafka 4.3. Transactions, new-style groups, share groups and streams groups are
/// not named, so that nobody expects them.
const METADATA_VERSIONS: (i16, i16) = (7, 30);

fn ranges() -> ApiVersionsResponseData {
    let mut keys: Vec<_> = super::APIS
        .iter()
        .map(|api| {
            ApiVersion::default()
                .with_api_key(api.key)
                .with_min_version(api.min)
                .with_max_version(api.max)
        })
        .collect();
    keys.sort_by_key(|key| key.api_key);
    ApiVersionsResponseData::default().with_api_keys(keys)
}

/// The answer to a version that is not ours: error 35 in a version 0 body, with the ranges, so that the client can ask again.
pub fn unsupported(correlation_id: i32) -> Reply {
    let body = ranges().with_error_code(ErrorCode::UnsupportedVersion.code());
    let mut frame = reply::begin(correlation_id, false, 6 + 6 * super::APIS.len());
    match body.write(&mut frame, 0) {
        Ok(()) => reply::finish(frame),
        Err(_) => Reply::Close,
    }
}

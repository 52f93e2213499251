//! DescribeUserScramCredentials: there are no users yet. Kafka's configs tool asks for them when it describes users.

use kacrab_protocol::generated::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult;
use kacrab_protocol::generated::{
    DescribeUserScramCredentialsRequestData, DescribeUserScramCredentialsResponseData, ErrorCode,
};

use crate::cluster::text;
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 50,
    name: "DescribeUserScramCredentials",
    min: 0,
    max: 0,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    _call: Call,
    request: DescribeUserScramCredentialsRequestData,
) -> Answer<DescribeUserScramCredentialsResponseData> {
    let unknown =
        |user: &kacrab_protocol::generated::describe_user_scram_credentials_request::UserName| {
            let message = format!(
                "Attempt to describe a user credential that does not exist: {}",
                user.name
            );
            DescribeUserScramCredentialsResult::default()
                .with_user(user.name.clone())
                .with_error_code(ErrorCode::ResourceNotFound.code())
                .with_error_message(Some(text(message)))
        };
    let results = request.users.iter().flatten().map(unknown).collect();
    Ok(DescribeUserScramCredentialsResponseData::default().with_results(results))
}

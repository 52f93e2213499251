//! DescribeClientQuotas: none are set. Kafka's configs tool asks for them when it describes users and clients.

use kacrab_protocol::generated::{
    DescribeClientQuotasRequestData, DescribeClientQuotasResponseData,
};

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 48,
    name: "DescribeClientQuotas",
    min: 0,
    max: 1,
    flexible: 1,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    _call: Call,
    _request: DescribeClientQuotasRequestData,
) -> Answer<DescribeClientQuotasResponseData> {
    Ok(DescribeClientQuotasResponseData::default().with_entries(Some(Vec::new())))
}

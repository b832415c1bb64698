//! Calls straight to the socket of a shim, without the daemon.

use std::fs;
use std::time::{Duration, Instant};

use protobuf::Message;
use runtime_task::messages::{StateRequest, StatsRequest};
use ttrpc::r#async::Client;
use ttrpc::proto::Request;

use crate::bench::{Bench, progress};
use crate::failure::Failure;
use crate::interrupt::check;
use crate::report::{Findings, Measure, Runtime, Samples, Unit};
use crate::rows::Row;

/// The version of the service that every shim has.
const SERVICE: &str = "containerd.task.v2.Task";
/// No call takes longer: containerd gives State two seconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// Calls that are made and not counted.
const WARM_UP: usize = 20;

pub(crate) const ROWS: &[Row] = &[Row {
    name: "rpc",
    title: "State and Stats over ttrpc to the shim's own socket",
    measures: &["rpc_"],
    measure: rpc,
}];

fn rpc(bench: &Bench) -> Result<Findings, Failure> {
    progress("rpc");
    let ids = [bench.idle(Runtime::Vmrt)?, bench.idle(Runtime::Runc)?];
    let encode = |message: Result<Vec<u8>, protobuf::Error>| {
        message.map_err(|error| Failure::Unexpected(format!("encode a request: {error}")))
    };
    let mut state = Vec::new();
    let mut stats = Vec::new();
    for id in &ids {
        let request = StateRequest { id: id.clone(), ..Default::default() };
        state.push(encode(request.write_to_bytes())?);
        let request = StatsRequest { id: id.clone(), ..Default::default() };
        stats.push(encode(request.write_to_bytes())?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::io("make a runtime", source))?;
    let measures = runtime.block_on(async {
        let shims = [connect(bench, &ids[0]).await?, connect(bench, &ids[1]).await?];
        Ok(vec![
            compare(bench, &shims, "State", &state).await?,
            compare(bench, &shims, "Stats", &stats).await?,
        ])
    })?;
    bench.remove_all(&ids)?;
    Ok(Findings::of(measures))
}

async fn connect(bench: &Bench, id: &str) -> Result<Client, Failure> {
    let file = bench.daemon.bundle(id).join("address");
    let address = fs::read_to_string(&file)
        .map_err(|source| Failure::io(format!("read {}", file.display()), source))?;
    let connection = Client::connect(address.trim()).await;
    connection.map_err(|error| Failure::Unexpected(format!("connect to {address}: {error}")))
}

/// One call to each in turn.
async fn compare(
    bench: &Bench,
    shims: &[Client; 2],
    method: &str,
    payloads: &[Vec<u8>],
) -> Result<Measure, Failure> {
    let mut sides = [Samples::default(), Samples::default()];
    for round in 0..WARM_UP + bench.plan.calls {
        check()?;
        for (side, shim) in shims.iter().enumerate() {
            let took = call(shim, method, payloads[side].clone()).await?;
            if round >= WARM_UP {
                sides[side].values.push(took.as_secs_f64() * 1e6);
            }
        }
    }
    Ok(Measure::compared(format!("rpc_{}", method.to_lowercase()), Unit::Microseconds, sides))
}

async fn call(shim: &Client, method: &str, payload: Vec<u8>) -> Result<Duration, Failure> {
    let request =
        Request { service: SERVICE.into(), method: method.into(), payload, ..Default::default() };
    let began = Instant::now();
    let answer = tokio::time::timeout(DEADLINE, shim.request(request)).await;
    let took = began.elapsed();
    match answer {
        Ok(Ok(response)) if !response.payload.is_empty() => Ok(took),
        Ok(Ok(_)) => Err(Failure::Unexpected(format!("{method} answers nothing"))),
        Ok(Err(error)) => Err(Failure::Unexpected(format!("{method}: {error}"))),
        Err(_) => Err(Failure::Unexpected(format!("{method} takes over {DEADLINE:?}"))),
    }
}

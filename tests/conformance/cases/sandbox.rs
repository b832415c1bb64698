//! Several containers in one sandbox, sandboxes by themselves, and ways back to them.

use conformance::{Bundle, process};
use runtime_api::{
    CreateSandbox, ErrorKind, RuntimeOptions, SandboxId, SandboxState, Status, Token,
};

use crate::case::{Case, Need, case};
use crate::context::Context;
use crate::process::Process;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("a container joins the sandbox of another one", "Grouping", joins),
    case!("a sandbox lives until its last container is deleted", "Shutdown: siblings", siblings),
    case!(
        "a container that was deleted is unknown to its siblings' server",
        "Delete: second",
        second_delete
    ),
    case!("a failed creation leaves its siblings alone", "Failure leaves nothing", failed_sibling),
    case!("execs of the same id in two containers are two", "Exec", same_exec_id),
    case!("five containers in a sandbox each have their own exit", "Wait", five),
    case!("a sandbox can be had without a container", "create_sandbox", alone)
        .needs(&[Need::Sandbox]),
    case!("a sandbox with a container is not deleted", "delete_sandbox", not_empty)
        .needs(&[Need::Sandbox]),
    case!("no operation finds an unknown sandbox", "Unknown ids", unknown).needs(&[Need::Sandbox]),
    case!("a token leads back to its container", "attach", attach).needs(&[Need::Attach]),
    case!("what is no token is refused", "attach", no_token).needs(&[Need::Attach]),
    case!("a port where nobody listens is unavailable", "dial", dial).needs(&[Need::Dial]),
];

/// Creates a container in the sandbox of `pod`.
async fn sibling<'a>(context: &'a Context, pod: &Process<'_>, args: &[&str]) -> Process<'a> {
    let bundle = Bundle::running(args).in_sandbox(pod.container().as_str());
    context.create_with(&bundle, Wanted::default()).await
}

async fn joins(context: &Context) {
    let pod = context.sleeping().await;
    let mut app = sibling(context, &pod, &["sh", "-c", "echo app; exit 5"]).await;
    context.ran("app", app.run().await, 5, "app\n");
    context.expect("pod", pod.status().await.unwrap(), Status::Running);
    pod.dispose().await;
}

async fn siblings(context: &Context) {
    let pod = context.sleeping().await;
    let app = sibling(context, &pod, &["sleep", "1000"]).await;
    app.start().await.unwrap();
    pod.dispose().await;
    context.expect("app", app.status().await.unwrap(), Status::Running);
    let mut exec = app.exec("e", &["echo", "alive"]).await.unwrap();
    context.ran("exec", exec.run().await, 0, "alive\n");
    app.dispose().await;
}

async fn second_delete(context: &Context) {
    let pod = context.sleeping().await;
    let app = sibling(context, &pod, &["true"]).await;
    app.start().await.unwrap();
    app.wait().await.unwrap();
    app.delete().await.unwrap();
    context.refused("delete", app.delete().await, ErrorKind::NotFound);
    context.refused("state", app.state().await, ErrorKind::NotFound);
    context.refused("wait", app.wait().await, ErrorKind::NotFound);
    context.refused("start", app.start().await, ErrorKind::NotFound);
    let exec = app.exec("e", &["true"]).await.map(drop);
    context.refused("exec", exec, ErrorKind::NotFound);
    pod.dispose().await;
}

async fn failed_sibling(context: &Context) {
    let pod = context.sleeping().await;
    let nope = Bundle::running(&["/nope"]).in_sandbox(pod.container().as_str());
    let created = context.try_create(&nope, Wanted::default()).await.map(drop);
    context.refused("create", created, ErrorKind::NotFound);
    let mut app = sibling(context, &pod, &["echo", "fine"]).await;
    context.ran("app", app.run().await, 0, "fine\n");
    context.expect("pod", pod.status().await.unwrap(), Status::Running);
    pod.dispose().await;
}

async fn same_exec_id(context: &Context) {
    let pod = context.sleeping().await;
    let app = sibling(context, &pod, &["sleep", "1000"]).await;
    app.start().await.unwrap();
    let script = |word: &str| process(&["sh", "-c", &format!("sleep 0.2; echo {word}")]);
    let mut first = pod.exec_with("e", script("pod"), Wanted::default()).await.unwrap();
    let mut second = app.exec_with("e", script("app"), Wanted::default()).await.unwrap();
    first.start().await.unwrap();
    second.start().await.unwrap();
    context.ran("first", first.end().await, 0, "pod\n");
    context.ran("second", second.end().await, 0, "app\n");
    app.dispose().await;
    pod.dispose().await;
}

async fn five(context: &Context) {
    let pod = context.sleeping().await;
    let mut apps = Vec::new();
    for number in 0..5 {
        let script = format!("echo {number}; sleep 0.2; exit {number}");
        apps.push(sibling(context, &pod, &["sh", "-c", &script]).await);
    }
    for app in &apps {
        app.start().await.unwrap();
    }
    for (number, app) in apps.iter_mut().enumerate() {
        let code = u32::try_from(number).unwrap();
        context.ran(&format!("app {number}"), app.end().await, code, &format!("{number}\n"));
    }
    pod.dispose().await;
}

fn request(context: &Context) -> CreateSandbox {
    CreateSandbox {
        id: SandboxId::parse(context.id("s").to_string()).unwrap(),
        netns: None,
        hostname: "pod".to_owned(),
        annotations: Vec::new(),
        options: RuntimeOptions::default(),
    }
}

async fn alone(context: &Context) {
    let request = request(context);
    let (runtime, id) = (context.runtime(), request.id.clone());
    context.allowed("create", runtime.create_sandbox(request.clone()).await);
    let again = runtime.create_sandbox(request).await;
    context.refused("again", again, ErrorKind::AlreadyExists);
    let status = runtime.sandbox_status(&id).await.unwrap();
    context.expect("state", status.state, SandboxState::Ready);
    context.expect("containers", status.containers, Vec::new());
    context.allowed("delete", runtime.delete_sandbox(&id).await);
    context.refused("second delete", runtime.delete_sandbox(&id).await, ErrorKind::NotFound);
    context.refused("status", runtime.sandbox_status(&id).await, ErrorKind::NotFound);
}

async fn not_empty(context: &Context) {
    let sandbox = request(context);
    let (runtime, id) = (context.runtime(), sandbox.id.clone());
    runtime.create_sandbox(sandbox).await.unwrap();
    let (mut request, streams) =
        context.request(&Bundle::running(&["echo", "inside"]), Wanted::default());
    request.sandbox = Some(id.clone());
    let mut container = context.create_as(request, streams).await.unwrap();
    let status = runtime.sandbox_status(&id).await.unwrap();
    let holds = status.containers == [container.container().clone()];
    context.expect("it holds the container", holds, true);
    let refused = runtime.delete_sandbox(&id).await;
    context.refused("delete", refused, ErrorKind::FailedPrecondition);
    context.ran("init", container.run().await, 0, "inside\n");
    let status = runtime.sandbox_status(&id).await.unwrap();
    context.expect("it outlives its container", status.state, SandboxState::Ready);
    context.allowed("delete then", runtime.delete_sandbox(&id).await);
}

async fn unknown(context: &Context) {
    let id = SandboxId::parse("unknown").unwrap();
    let runtime = context.runtime();
    context.refused("status", runtime.sandbox_status(&id).await, ErrorKind::NotFound);
    context.refused("delete", runtime.delete_sandbox(&id).await, ErrorKind::NotFound);
    context.refused("dial", runtime.dial(&id, 1).await, ErrorKind::NotFound);
    let (mut request, streams) = context.request(&Bundle::running(&["true"]), Wanted::default());
    request.sandbox = Some(id);
    let created = context.create_as(request, streams).await.map(drop);
    context.refused("create", created, ErrorKind::NotFound);
}

async fn attach(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    let handle = container.created.clone().unwrap().handle;
    let created = context.runtime().attach(&handle.token).await.unwrap();
    context.expect("created", created == handle, true);
    container.start().await.unwrap();
    let running = context.runtime().attach(&handle.token).await.unwrap();
    context.expect("running", running == handle, true);
    container.dispose().await;
    let gone = context.runtime().attach(&handle.token).await;
    context.refused("deleted", gone, ErrorKind::NotFound);
}

async fn no_token(context: &Context) {
    for (what, bytes) in [("nothing", &b""[..]), ("text", b"token"), ("zeros", &[0; 64])] {
        let attached = context.runtime().attach(&Token(bytes.to_vec())).await;
        context.refused(what, attached, ErrorKind::InvalidArgument);
    }
}

async fn dial(context: &Context) {
    let container = context.sleeping().await;
    let sandbox = SandboxId::parse(container.container().as_str()).unwrap();
    let dialled = context.runtime().dial(&sandbox, 7001).await;
    context.refused("dial", dialled, ErrorKind::Unavailable);
    container.dispose().await;
}

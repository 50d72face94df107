//! Every bound of the proxy, with its reason. A bound that is not here does not exist.

use std::num::NonZeroU32;
use std::time::Duration;

/// One agent opens tens of connections at a time, and with all its tools hundreds; a flood beyond this is dropped at accept. Fewer are
/// served where the limit on open files is low.
pub const CONNECTIONS_MAX: usize = 1024;
/// The same in a pod, whose memory is limited: one that downloads and does not read takes a third of a MiB here (measured), and all of
/// them stay below it.
pub const CONNECTIONS_IN_POD_MAX: usize = 512;
/// Connections to upstreams that are open at a time, also those that lie idle: one for each of an agent's. Streams of HTTP/2 that need more
/// wait. Fewer, if fewer connections are served.
pub const UPSTREAM_CONNECTIONS_MAX: usize = CONNECTIONS_MAX;
/// The same in a pod. Each may hold a third of a MiB with its agent's (see [`CONNECTIONS_IN_POD_MAX`]), and they leave room for
/// the windows of HTTP/2.
pub const UPSTREAM_CONNECTIONS_IN_POD_MAX: usize = 256;
/// Files that are open for one connection: itself and an upstream's, of which there are no more ([`UPSTREAM_CONNECTIONS_MAX`]).
pub const FILES_PER_CONNECTION: u64 = 2;
/// Other files: [`ENROLMENTS_MAX`], [`ADMIN_CONNECTIONS_MAX`], the ports, probes, and what is read and written, with as much again to spare.
pub const FILES_BESIDE_CONNECTIONS: u64 = 640;
/// The kernel's queue of connections not yet accepted.
pub const ACCEPT_BACKLOG: u32 = 1024;
/// Streams of one HTTP/2 connection; browsers and SDKs use at most 100.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Fields of one head.
pub const HEADER_FIELDS_MAX: usize = 100;
/// All fields of one head together, over HTTP/1.1 with the request line.
pub const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// What a field of a head takes in memory beside its bytes, about: an entry in a table, and another where it may be sent again.
pub const HEADER_FIELD_COST_BYTES: usize = 256;
/// Heads of requests that are not answered yet, all together, but for those below [`HEAD_FREE_BYTES`]: as much as 512 of the longest have,
/// one for each connection of an agent in a pod. Over HTTP/2 there may be five times as many.
pub const HEADS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A head that takes less is not counted: hardly any takes more.
pub const HEAD_FREE_BYTES: usize = 4 * 1024;
/// Path and query of a request; servers commonly refuse longer ones.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// A head that takes longer is a slow-loris.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the first byte of a tunnel, and for a SOCKS5 or TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to resolve, connect and shake hands with an upstream, for each address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to resolve a name, all attempts together.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(8);
/// Addresses tried for one request; more would only hide an upstream that is down.
pub const ADDRESSES_PER_REQUEST_MAX: usize = 4;
/// Names whose addresses are remembered at a time: an agent asks few hosts for much. An answer of DNS has 64 KiB at most, and in memory up to a MiB.
pub const RESOLVED_NAMES_MAX: u64 = 64;
/// What one address of an answer takes in memory, about, as the resolver keeps it.
pub const RESOLVED_ADDRESS_BYTES: usize = 256;
/// Longest time an upstream's address is remembered.
pub const RESOLVED_TTL_MAX: Duration = Duration::from_secs(300);
/// An upstream may think before its first byte: models take minutes. Counted from the last piece of the request.
pub const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(600);
/// The same for a call of gRPC, whose server may send its head with its first message: a watch may have nothing to say for
/// hours. An upstream that is gone is found out by pings.
pub const CALL_HEAD_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Informational answers (1xx) that may come before one answer at once. Pages have a few (103), and a server that is at work says so each ten
/// seconds (102).
pub const INFORMATIONAL_ANSWERS_MAX: u32 = 64;
/// After this one more may come. How many come in all is not bounded: an answer may take as long as its upload moves, and a server tells how
/// far that has come (104), commonly each second.
pub const INFORMATIONAL_ANSWER_INTERVAL: Duration = Duration::from_millis(500);
/// An event of a stream is held until it is whole, up to so many bytes. Models send a token or a call of a tool in one, which is far shorter; a
/// longer one, as with a picture in it, is passed on as it comes.
pub const EVENT_BYTES_HELD_MAX: usize = 64 * 1024;
/// The same for all streams together: 4,096 of the usual ones, of up to a KiB each, more than an agent has streams.
pub const EVENTS_BYTES_HELD_MAX: usize = 4 * 1024 * 1024;
/// Streams of one HTTP/2 connection whose heads are counted; beyond it the oldest is counted anew. Servers allow a hundred or a few at a time.
pub const H2_COUNTED_STREAMS_MAX: usize = 1024;
/// Idle upstream connections kept for each (scheme, host, port): as many as an agent with all its tools sends requests at a
/// time. With fewer, most requests of a burst pay for a TLS handshake, which costs more than all else that is done for
/// them.
pub const IDLE_CONNECTIONS_PER_HOST_MAX: usize = 64;
/// Idle upstream connections kept for all destinations together; beyond this the oldest goes. A wildcard allows any number of
/// names, so this bounds the descriptors and the memory that an agent can have held for nothing: four hosts in a burst.
pub const IDLE_CONNECTIONS_MAX: usize = 256;
/// HTTP/2 connections kept for each destination and credential. One carries as many streams as the upstream allows, commonly a hundred;
/// one more is opened when all are full. Four carry 400, more than an agent has requests under way.
pub const H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX: usize = 4;
/// How long a request waits for a stream while all connections to its destination are full, or for a place while as many are open as may
/// be: as long as for the head of an answer, since it waits for answers to end.
pub const H2_UPSTREAM_STREAM_WAIT_MAX: Duration = RESPONSE_HEAD_TIMEOUT;
/// A request whose secret was looked up longer ago than this, because it waited for a stream or a connection, is sent with the secret
/// that there is then. Shorter is no wait: a decision takes as long. That its policy is in force is looked at however soon it is sent.
pub const UNCHECKED_WAIT_MAX: Duration = Duration::from_millis(10);
/// A request is sent once more only if its kept connection ended within this time under it. A server that closed the connection while
/// it lay idle says so within a round trip, which has not taken longer than connecting may; one that ends it later was at work.
pub const LOST_REQUEST_AGE_MAX: Duration = CONNECT_TIMEOUT;
/// Servers commonly close idle connections after a minute; ours go first.
pub const IDLE_CONNECTION_AGE_MAX: Duration = Duration::from_secs(50);
/// How often connections that became too old are looked for.
pub const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Leaves kept; beyond this the oldest go.
pub const LEAVES_MAX: usize = 256;
/// Sessions of TLS that an agent may resume, of all names together; beyond this the oldest go. Each has some 300 bytes, and is looked for among
/// all, which takes microseconds.
pub const SESSIONS_MAX: usize = 256;
/// A leaf lives a day, so a leaked one is soon worthless.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// A leaf is minted again after half its life.
pub const LEAF_AGE_MAX: Duration = Duration::from_secs(12 * 3600);
/// The agent's clock may be behind ours.
pub const LEAF_BACKDATE: Duration = Duration::from_secs(300);
/// How often the policy file is read. Kubelet swaps a symlink, which inotify on the file would miss.
pub const POLICY_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the last good policy is obeyed once the file is missing or invalid.
pub const POLICY_STALE_MAX: Duration = Duration::from_secs(600);
/// A policy document of 10,000 rules with a path or two each is below this.
pub const POLICY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// How often a secret's file is looked at again; well below the five seconds promised for a rotation.
pub const SECRET_STAT_INTERVAL: Duration = Duration::from_secs(1);
/// Larger than any key or token; an agent's request line must also hold it.
pub const SECRET_BYTES_MAX: u64 = 8 * 1024;
/// Each file of a client certificate: a chain of [`CERTIFICATE_CHAIN_MAX`] with room to spare, and as much as a handshake message may
/// have in most servers.
pub const CERTIFICATE_BYTES_MAX: u64 = 64 * 1024;
/// Certificates that are shown together, from the client's own to the last that vouches for it.
pub const CERTIFICATE_CHAIN_MAX: usize = 8;
/// Queries for one second; beyond it they are dropped, and the client's resolver asks again.
pub const DNS_QUERIES_PER_SECOND_MAX: u32 = 500;
/// Short enough for a revoked name to vanish soon, long enough not to be asked for each request.
pub const DNS_TTL_SECS: u32 = 30;
/// Time a DNS client may hold a TCP connection without asking.
pub const DNS_TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of a frame that may be the beginning of a secret waits for the next frame. What follows later is masked
/// all the same; a peer that waits for exactly these bytes goes on.
pub const HELD_BYTES_PATIENCE: Duration = Duration::from_millis(100);
/// What one HTTP/2 stream of an agent's may send before it is read. An agent is near: a tenth of a millisecond away this still
/// is 640 MiB in a second.
///
/// No less than what a client takes for granted that has not read our settings yet (65,535 bytes). Who had sent more by then would have a window
/// below zero (RFC 9113, 6.9.2), which httpcore (httpx) takes for room; and below a third of it h2 gives nothing back.
pub const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// The same for all streams of one connection: as much as all streams that it may have, so that any number of them that nobody reads
/// holds up no other. Half of it is what h2 takes of small
/// frames that are not read yet, each counted as what it lacks to 256 bytes; beyond that it ends the connection, and hyper has
/// no setting for it. Two streams whose windows are full of frames of eight bytes, as a client of gRPC sends them, fit.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Bytes of an agent's that are acknowledged once they were read and nothing was answered: more than most requests have without a body, whose
/// answer acknowledges them. A client that waits for that between two frames sends a stream's window in each 40 ms.
pub const ACKNOWLEDGED_BYTES_MIN: usize = 4 * 1024;
/// HTTP/2 connections of an agent at a time; one more is offered HTTP/1.1 alone. With their windows and small frames these
/// stay below the memory that the proxy's pod has.
pub const H2_CONNECTIONS_MAX: usize = 10;
/// What one HTTP/2 stream of an upstream's may send before it is passed on. An agent may open many streams and read none;
/// half a MiB still is ten MiB in a second at a round trip of 50 ms.
pub const H2_UPSTREAM_STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// Upstream connections whose window is that wide, over all policies; [`H2_UPSTREAM_NARROW_CONNECTIONS_MAX`] more have
/// [`H2_UPSTREAM_NARROW_WINDOW_BYTES`], and the others [`H2_UPSTREAM_LEAST_WINDOW_BYTES`].
pub const H2_UPSTREAM_WIDE_CONNECTIONS_MAX: usize = 2;
/// The window of one upstream connection more.
pub const H2_UPSTREAM_NARROW_WINDOW_BYTES: u32 = 1024 * 1024;
/// Connections that have it. With them, and the wide ones, an agent has HTTP/2 connections to eighteen hosts at a time.
pub const H2_UPSTREAM_NARROW_CONNECTIONS_MAX: usize = 16;
/// The window of any other: as much as may lie here of an answer over HTTP/1.1, in hyper's buffer and on its way out of it.
pub const H2_UPSTREAM_LEAST_WINDOW_BYTES: u32 = 128 * 1024;
/// What one stream may have of a window at most, as a part of it: one that nobody reads does not hold up another.
pub const H2_UPSTREAM_STREAM_SHARE: u32 = 2;
/// The same for all streams of one upstream connection: 32 that no agent reads leave room for others, and small frames have
/// half of it (see [`H2_CONNECTION_WINDOW_BYTES`]), so that a stream whose window is full of frames of 20 bytes fits.
pub const H2_UPSTREAM_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Connections to the enrolment port at a time: they are not the agent's, and a flood of the agent's must not keep out the
/// fence of its successor.
pub const ENROLMENTS_MAX: usize = 16;
/// Connections to the admin port at a time, which kubelet, the operator and Prometheus ask now and then, each in one or two.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Decisions that repeat are counted for this long, and then their number is written down.
pub const AUDIT_FOLD_WINDOW: Duration = Duration::from_secs(10);
/// Kinds of repeated decisions with a line of their own in one window; an agent can make up any number of names.
pub const AUDIT_NAMES_PER_WINDOW_MAX: usize = 64;
/// Denials of one kind with a line of their own in one window: enough to see what an agent tries.
pub const AUDIT_DENIALS_PER_KIND_MAX: usize = 16;
/// Denials of all kinds with a line of their own in one window.
pub const AUDIT_DENIALS_PER_WINDOW_MAX: usize = 128;
/// Decisions for one second in a pod, whose log kubelet rotates; beyond it requests wait. Each is a line or two of some 600
/// bytes, and whatever ships the log has to keep up with them.
pub const AUDIT_DECISIONS_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(1000).unwrap();
/// After a pause so many seconds' worth of decisions may come at once: an installer asks for hundreds of files.
pub const AUDIT_BURST_SECS: u64 = 4;
/// Audit lines that wait for each other: as much as a pipe holds (pipe(7)), so that one write can be taken at once.
pub const AUDIT_BATCH_BYTES_MAX: usize = 64 * 1024;
/// Longer paths are cut in the audit line.
pub const AUDIT_PATH_BYTES_MAX: usize = 2 * 1024;
/// The proxy's pod has five seconds between SIGTERM and SIGKILL (`GRACE_SECS` of the operator's proxy pod), and the last
/// audit lines must be out before that. Nothing worth a longer wait remains: an agent is gone before its proxy.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A client that says nothing for this long after it was accepted only holds a place.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that has shut its writing side while it waits for an answer may as well be gone. Its kernel is asked this often: it forgets
/// the connection of a program that is gone after a minute (Linux, `tcp_fin_timeout`), and then says so.
pub const HALF_CLOSED_PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// Questions without an answer after which nobody is taken to be there.
pub const HALF_CLOSED_PROBES_MAX: u32 = 3;
/// How often is looked whether the kernel has found such a client gone.
pub const HALF_CLOSED_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Silence in both ways of a tunnel that is passed on: as in Envoy (`tcp_proxy.idle_timeout`). Whoever keeps one open for longer sends something
/// in it.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same once one side has no more to say: the other may think about its answer for as long as about any.
pub const HALF_CLOSED_IDLE_TIMEOUT: Duration = RESPONSE_HEAD_TIMEOUT;
/// How long an upstream may take nothing of what waits for it, or answer no probe of the kernel's: then its connection ends, which
/// would hold a place for ever. It may think about what it has taken for as long.
pub const UPSTREAM_DEAF_MAX: Duration = RESPONSE_HEAD_TIMEOUT;
/// Silence after which the kernel asks whether an upstream is there, and how often: below the minute after which middleboxes commonly
/// forget a connection.
pub const UPSTREAM_PROBE_INTERVAL: Duration = H2_PING_INTERVAL;
/// What TLS that is passed on waits for a place: a client that has no answer to its handshake for a minute has given up, even where it
/// does not say so.
pub const PASSED_PLACE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Silence in the middle of a request's body, before its answer has begun.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// What is still taken of a request's body once its answer is over. Bodies of refused API calls are well below it.
pub const LATE_BODY_BYTES_MAX: usize = 256 * 1024;
/// Silence in the rest of such a body.
pub const LATE_BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for all of it: as for a head, since one that takes longer only trickles.
pub const LATE_BODY_TIMEOUT: Duration = HEADER_READ_TIMEOUT;
/// Silence on an HTTP/2 connection after which the other side is asked whether it lives; below the minute after which
/// middleboxes commonly forget a connection.
pub const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// Time to answer that.
pub const H2_PING_TIMEOUT: Duration = Duration::from_secs(15);
/// An agent's HTTP/2 connection without a request for this long gives its place back. Clients keep idle ones for a minute
/// or two.
pub const H2_IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// Shortest time an upstream's address is remembered: a name with a TTL of zero would otherwise be asked for with each
/// connection.
pub const RESOLVED_TTL_MIN: Duration = Duration::from_secs(5);
/// Frames of a body that one HTTP/2 stream holds when its peer does not read, be it an agent or an upstream.
pub const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// The same for all streams to agents together, and for all to upstreams; beyond it each stream has [`H2_LEAST_BYTES`] on its way and one
/// frame more. As much as 128 streams that nobody reads hold, without the last frame of each.
pub const H2_UNSENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a stream may have on its way whatever others hold: some messages of gRPC, so that not each is a write of its own.
pub const H2_LEAST_BYTES: usize = 8 * 1024;
/// Longer pieces of a body are cut: it is the longest frame that a peer takes which has said nothing (RFC 9113, 4.2).
pub const H2_FRAME_BYTES_MAX: usize = 16 * 1024;
/// What a frame costs beside its bytes: its entry in h2's queue, which is as large as one of a head, and what counts it.
pub const H2_FRAME_COST_BYTES: usize = 512;
/// Parts of the memory that the process may take. Beyond [`MEMORY_MARK_PARTS`] of them all that the agent has open ends; what is left is for
/// what comes until that is seen, for windows of decoders, which need not be read for, and for what the kernel keeps for sockets.
pub const MEMORY_PARTS: usize = 16;
/// See [`MEMORY_PARTS`].
pub const MEMORY_MARK_PARTS: usize = 12;
/// The same where some of it does not come free: an allocator keeps it, and uses it again. Where that is more, the process begins anew.
pub const MEMORY_MARK_PARTS_MAX: usize = 14;
/// Bytes that are read from all sockets between two looks at how much that is: a look takes some microseconds, and a byte of a head may make a hundred.
pub const MEMORY_LOOK_BYTES: usize = 1024 * 1024;
/// Time in which what an agent had open is gone, and its memory free.
pub const MEMORY_SETTLES_AFTER: Duration = Duration::from_secs(1);
/// What an agent's HTTP/2 connection sends in one turn and is written together: one TLS record (RFC 8446, 5.1).
pub const H2_GATHERED_BYTES_MAX: usize = 16 * 1024;
/// How long a secret that was replaced is still looked for in answers; it is never sent again. A host that remembers it has
/// stopped writing it by then, or the owner has withdrawn it.
pub const SECRET_REMEMBERED: Duration = Duration::from_secs(600);
/// Replaced secrets of one file that are remembered at a time; the oldest goes.
pub const SECRETS_REMEMBERED_MAX: usize = 8;
/// Replaced policies whose secrets are remembered at a time; the oldest goes.
pub const POLICIES_REMEMBERED_MAX: usize = 8;
/// Shorter secrets draw a warning (P-F5): they can be guessed, and stand in answers by chance.
pub const SECRET_BYTES_ADVISED_MIN: usize = 12;
/// Scrubbers kept for one policy, one for each set of credentials that some host has; beyond this all are made anew.
pub const SCRUBBERS_MAX: usize = 64;
/// Decoded bytes for each byte of a compressed answer, beyond [`DECODED_FREE_BYTES`]. Text seldom has more than twenty,
/// and a bomb of deflate a thousand.
pub const DECODED_RATIO_MAX: u64 = 200;
/// So much may come of a compressed answer however short it is.
pub const DECODED_FREE_BYTES: u64 = 1024 * 1024;
/// Window of a compressed answer in zstd: what HTTP allows (RFC 9659).
pub const DECODED_WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Longest window of a compressed answer in brotli (RFC 7932, 9.1).
pub const BROTLI_WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Answers that are decoded at a time in a coding with a window of megabytes: all together stay below the memory that the
/// proxy's pod has. One in brotli whose window is [`BROTLI_WINDOW_BYTES_MAX`] counts as two; encoders choose half of that or less unless they
/// are told. One more is refused, since it could not be searched.
pub const WIDE_DECODERS_MAX: usize = 4;
/// The same in a coding with a window of 32 KiB, where each takes some 100 KiB: as many as one HTTP/2 connection has streams.
pub const NARROW_DECODERS_MAX: usize = 128;
/// Longest request that is counted, in bytes: as much as the highest limit that a rule can have. A longer one says so to confuse.
pub const BUDGET_REQUEST_BYTES_MAX: u64 = 1 << 50;
/// Seconds that count as the last minute. Whole seconds are told apart, so that this is a minute at least.
pub const BUDGET_WINDOW_SECS: u64 = 60;
/// Host patterns with limits that are counted, over all policies since the state folder was new; a sandbox has 128 rules at
/// most. The file with all of them and the one that replaces it fit together into the folder that the pod has.
pub const BUDGETS_MAX: usize = 1024;
/// Of a limit in all one part of so many is written down ahead, so that a long upload costs a few writes.
pub const BUDGET_CLAIM_SHARE: u64 = 64;
/// The same where the limit is large or there is none.
pub const BUDGET_CLAIM_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Rules with a counter of their own in the metrics: as many as a sandbox has at a time. The others share one.
pub const METRIC_RULES_MAX: usize = 128;
/// Spans that wait for the collector, each below a KiB with its texts: two MiB at most. As many as a second of decisions in a pod comes
/// to, twice; OpenTelemetry's SDKs keep as many.
pub const TRACES_QUEUE_SPANS_MAX: usize = 2048;
/// Of them the places that no allowed request takes: as many denials of all kinds as have a line of their own in ten seconds.
pub const TRACES_QUEUE_DENIALS_RESERVED: usize = 128;
/// Spans in one request to the collector: its JSON is some 400 KiB at most. In a pod with one core everything else waits while it is
/// made, so it is no larger.
pub const TRACES_BATCH_SPANS_MAX: usize = 256;
/// How long a span waits for others to go with, and the least time between two batches: no more than 256 spans a second leave a proxy.
pub const TRACES_DELAY: Duration = Duration::from_secs(1);
/// Longest host and rule in a span: as long as a rule's name may be, and longer than any name in DNS. Longer ones are cut.
pub const TRACES_TEXT_BYTES_MAX: usize = 300;
/// Time to resolve the collector, connect and have its answer: what OTLP's exporters have.
pub const TRACES_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses before a batch is tried again; after the last attempt it is dropped. Meanwhile spans fill the queue.
pub const TRACES_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// Head of the collector's answer; its body is not read. It is the least that hyper takes.
pub const TRACES_ANSWER_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Time for what waits when the proxy ends; with [`DRAIN_TIMEOUT`] it fits into the five seconds that the pod has.
pub const TRACES_LAST_TIMEOUT: Duration = Duration::from_secs(1);

//! What runs in an agent's pod before the agent: the fence, which proves the walls from inside, and, where the sandbox names a
//! source, the [workspace's step](workspace), which fetches its code through them.
//!
//! It owns the whole proof: which kernel this is, that no direct route leads out, that the sandbox's own proxy answers,
//! that the limits hold, and that the trust bundle is in place. It never configures a wall; it only looks. It trusts
//! nothing that the agent's image could bring, for it runs from its own image, before that image does.
//!
//! Data flows one way: [`args::FenceArgs`] → [`fence::run`] → `FenceReport` → [`termination`]. The judgements
//! ([`kernel::judge`], [`walls::judge`], [`limits::judge`]) are pure and stand on tables of cases; sockets and files are
//! read by small functions beside them. Silence is never a pass: what could not be tried counts as not proven.
//!
//! [`confine`] is another program in the same file: it runs as the agent's first process, gives up what an agent never needs,
//! and becomes the agent.

pub mod args;
pub mod confine;
pub mod enrolment;
pub mod fence;
pub mod forward;
pub mod kernel;
pub mod limits;
pub mod link;
pub mod probe;
pub mod program;
pub mod review;
pub mod route;
pub mod termination;
pub mod trust;
pub mod walls;
pub mod workspace;

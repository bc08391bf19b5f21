//! containerd with runc, driven through CRI as kubelet drives it.

mod calls;
mod cri;
mod ctr;
pub(crate) mod daemon;
mod life;
mod pods;
mod status;

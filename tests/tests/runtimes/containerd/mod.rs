//! containerd with runc, driven through CRI as kubelet drives it.

mod cri;
mod ctr;
mod daemon;
mod life;
mod pods;

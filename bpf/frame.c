//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Sends an Ethernet frame: a packet socket for a process without CAP_NET_RAW.
 *
 * It is attached to nothing. BPF_PROG_TEST_RUN gives it the frame as a packet
 * that never was on a link, and its clone really leaves by the link.
 */
#include "kernel.h"

struct __sk_buff;

static long (*bpf_clone_redirect)(struct __sk_buff *skb, __u32 ifindex, __u64 flags) = (void *)13;

/* Set before it is loaded. Host byte order. */
volatile const __u32 link;

SEC("tc")
int sl_frame(struct __sk_buff *skb)
{
	return bpf_clone_redirect(skb, link, 0); /* 0, or a negative errno */
}

char _license[] SEC("license") = "Dual BSD/GPL";

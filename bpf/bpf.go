// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel half of Sluice and its generated bindings.
//
// The C is in splice.c (the programs, with the argument for each verdict),
// splice.h (the data that it shares with Go and with people) and kernel.h (what
// it knows of the kernel). Package agent/splice loads and feeds it; nothing else
// should. Apart from that, frame.c sends the frames of package agent/address.
//
// The object is committed, so that building Sluice needs no clang. `go generate`
// rebuilds it with the clang of Debian 12 (14), byte for byte.
package bpf

//go:generate go tool bpf2go -cc clang-14 -target bpfel -cflags "-O2 -g -mcpu=v3 -Wall -Werror" -type sl_outcome -type sl_counts -type sl_reader -type sl_policy -type sl_settings -type sl_endpoint_key -type sl_endpoint -type sl_half -type sl_flow -type sl_side -type sl_end -type sl_byte_counts -type sl_member -type sl_sign -type sl_event -type sl_request Splice splice.c
//go:generate go tool bpf2go -cc clang-14 -target bpfel -cflags "-O2 -g -mcpu=v3 -Wall -Werror" Frame frame.c

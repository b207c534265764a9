// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// news is what changed and was not looked at yet.
type news struct {
	wake chan struct{} // has a token when there is any

	mu sync.Mutex
	// objects are those that changed, by the version that they have now: "" when
	// there was more than one. The zero Key stands for everything else that there
	// is to translate, and for more than can be remembered. What nodes say is in
	// none of them.
	objects map[translate.Key]string
}

func newNews() *news {
	return &news{wake: make(chan struct{}, 1), objects: map[translate.Key]string{}}
}

// object notes that an object changed.
func (n *news) object(k translate.Key, version string) {
	n.mu.Lock()
	if had, ok := n.objects[k]; ok && had != version {
		version = ""
	}
	n.objects[k] = version
	const most = 4096 // while another replica leads, nobody takes them
	if len(n.objects) > most {
		n.objects = map[translate.Key]string{{}: ""}
	}
	n.mu.Unlock()
	token(n.wake)
}

// more notes that something else changed.
func (n *news) more() { n.object(translate.Key{}, "") }

// nodes notes that nodes say something else.
func (n *news) nodes() { token(n.wake) }

// take returns the objects that changed, once.
func (n *news) take() map[translate.Key]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.objects
	n.objects = map[translate.Key]string{}
	return out
}

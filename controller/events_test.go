// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// TestEventsRemembersObjectsThatThereAre warns of one object again and again, while
// others come and go that are warned of, too.
func TestEventsRemembersObjectsThatThereAre(t *testing.T) {
	recorder := events.NewFakeRecorder(10000)
	tells := newTeller(recorder)
	route := func(uid string) client.Object {
		return &gwv1.TCPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: uid, UID: types.UID(uid)}}
	}
	stays := route("stays")
	for i := range 5000 {
		passes := route(fmt.Sprint(i))
		tells.tell(stays, nil, nil, []string{"it refers to nothing"})
		tells.tell(passes, nil, nil, []string{"it refers to nothing"})
		tells.forget(map[translate.Key]client.Object{{Name: "stays"}: stays, {Name: "passes"}: passes})
	}
	if len(tells.warned) > 2 || len(tells.paces) > 2 {
		t.Errorf("warnings of %d objects are remembered, and the paces of %d; there are 2", len(tells.warned), len(tells.paces))
	}
	if n := len(recorder.Events); n != 5001 {
		t.Errorf("%d Events, want one for each object", n)
	}
}

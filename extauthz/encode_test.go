package extauthz

import (
	"encoding/json"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"gatehouse/gate"
	"gatehouse/policy"
)

// FuzzEncode compares what encode writes with what the generated types marshal to.
func FuzzEncode(f *testing.F) {
	f.Add(true, 200, "x-a", "1", "x-b", "body", "", 3)
	f.Add(false, 403, "x-a", strings.Repeat("v", 300), "\xff", strings.Repeat("b", 20_000), `{"a": [1, null, {"b": "\u0000"}]}`, 1)
	f.Add(false, 0, "", "", "", "", `{}`, 0)
	f.Fuzz(func(t *testing.T, allow bool, status int, name, value, other, body, metadata string, n int) {
		a := gate.Answer{Allow: allow, Status: status, DecisionID: validUTF8(other), Reason: gate.Denied, Body: body}
		for i := range min(max(n, 0), 20) {
			h := gate.HeaderOption{Name: name, Value: value, Action: gate.Action(i % len(headerActions))}
			a.Set, a.Response = append(a.Set, h), append(a.Response, h)
			a.Remove, a.RemoveQuery = append(a.Remove, other), append(a.RemoveQuery, name)
			a.SetQuery = append(a.SetQuery, policy.QueryParameter{Name: name, Value: other})
		}
		_ = json.Unmarshal([]byte(metadata), &a.Metadata) // nil where it is no object
		compareEncoded(t, &a)
	})
}

func compareEncoded(t *testing.T, a *gate.Answer) {
	t.Helper()
	wire, err := encode(a)
	if err != nil {
		t.Fatal(err)
	}
	var got authv3.CheckResponse
	if err := proto.Unmarshal(wire, &got); err != nil {
		t.Fatal(err)
	}
	if want := response(a); !proto.Equal(want, &got) {
		t.Fatalf("encode writes otherwise (-generated +encode):\n%s", gocmp.Diff(want, &got, protocmp.Transform()))
	}
}

func BenchmarkEncode(b *testing.B) {
	a := &gate.Answer{Allow: true, DecisionID: "4K7Q2MZJXV5B3W6T", Set: []gate.HeaderOption{{Name: "x-auth-subject", Value: "vera"}, {Name: "x-auth-roles", Value: "viewer,editor"}}}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = encode(a)
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = proto.Marshal(response(a))
		}
	})
}

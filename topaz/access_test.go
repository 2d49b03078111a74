package topaz_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/topaz/pb/common"
	"gatehouse/topaz/pb/exporter"
	"gatehouse/topaz/pb/importer"
	"gatehouse/topaz/pb/model"
	"gatehouse/topaz/pb/reader"
	"gatehouse/topaz/pb/writer"
)

// TestKeys: each call of each kind needs one good key, and a file of keys that changes counts for connections that are open.
func TestKeys(t *testing.T) {
	s := newService(t, "file: people", "")
	s.people(somePeople...)
	s.start()
	with := func(values ...string) context.Context {
		ctx := t.Context()
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
		}
		return ctx
	}
	good := s.keys["reader"]
	calls := map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := s.reader().GetObject(ctx, &reader.GetObjectRequest{ObjectType: "user", ObjectId: "ann"})
			return err
		},
		"stream": func(ctx context.Context) error {
			_, err := all(s.model().GetManifest(ctx, &model.GetManifestRequest{}))
			return err
		},
	}
	for name, call := range calls {
		for what, test := range map[string]struct {
			ctx  context.Context
			code codes.Code
		}{
			"basic": {with("basic " + good), 0}, "Bearer": {with("Bearer " + good), 0}, "BASIC": {with("BASIC  " + good), 0},
			"none": {with(), codes.Unauthenticated}, "empty": {with(""), codes.Unauthenticated}, "the key alone": {with(good), codes.Unauthenticated},
			"another scheme": {with("digest " + good), codes.Unauthenticated}, "two": {with("basic "+good, "basic "+good), codes.Unauthenticated},
			"a wrong one": {with("basic " + good[:len(good)-1]), codes.Unauthenticated}, "half": {with("basic " + good[:10]), codes.Unauthenticated},
			"long": {with("basic " + strings.Repeat("x", 10_000)), codes.Unauthenticated},
		} {
			if err := call(test.ctx); status.Code(err) != test.code || strings.Contains(fmt.Sprint(err), good[:10]) {
				t.Errorf("%s, %s: %v, want %v", name, what, err, test.code)
			}
		}
	}
	old := string(mustRead(t, filepath.Join(s.dir, "keys.yaml")))
	s.newKey("late")
	await := func(key string, want codes.Code) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
			err := calls["unary"](s.as(key))
			if status.Code(err) == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the key %s: %v, want %v", key, err, want)
			}
		}
	}
	await("late", 0)
	s.write("keys.yaml", "keys: [") // which cannot be used: what was stays
	await("late", 0)
	s.write("keys.yaml", old)
	await("late", codes.Unauthenticated)
	await("reader", 0)
}

// TestTLS: with a certificate the listener takes TLS alone, from clients that trust it.
func TestTLS(t *testing.T) {
	s := newService(t, "file: people", "")
	s.people(somePeople...)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.write("tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.write("tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	before := s.address
	s.address = freeAddress(t)
	file := filepath.Join(s.dir, "gatehouse.yaml")
	s.write("gatehouse.yaml", strings.Replace(string(mustRead(t, file)), `"`+before+`"], keys`, `"`+s.address+`"], tls: {cert: tls.crt, key: tls.key}, keys`, 1))
	s.start()
	q := ask("doc:1", "can_read", "user:ann")
	got, err := reader.NewReaderClient(s.connect(trusting(cert))).Check(s.as("reader"), q)
	if err != nil || !got.Check {
		t.Errorf("%v, %v", got, err)
	}
	short, cancel := context.WithTimeout(s.as("reader"), time.Minute)
	defer cancel()
	for what, conn := range map[string]*grpc.ClientConn{"without TLS": s.connect(insecure.NewCredentials()), "who trusts another": s.connect(trusting(nil))} {
		if _, err := reader.NewReaderClient(conn).Check(short, q, grpc.WaitForReady(false)); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestSizes: what is too large is refused, to read and to write.
func TestSizes(t *testing.T) {
	s := newService(t, "writable: true, file: people", "")
	var lines []string
	for i := range 20 {
		lines = append(lines, fmt.Sprintf(`{"type":"user","id":"%d","properties":{"x":%q}}`, i, strings.Repeat("x", 200<<10)))
	}
	s.people(append(lines, "group:g", "group:g#member@user:1")...)
	s.start()
	ctx, r := s.as("writer"), s.reader()
	_, err := r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: "user"})
	s.is("20 large ones", err, codes.ResourceExhausted, "ask for fewer")
	got, err := r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: "user", Page: &common.PaginationRequest{Size: 5}})
	if err != nil || len(got.Results) != 5 {
		t.Errorf("5 of them: %v", err)
	}
	var many reader.GetObjectManyRequest
	for i := range 20 {
		many.Param = append(many.Param, &common.ObjectIdentifier{ObjectType: "user", ObjectId: fmt.Sprint(i)})
	}
	_, err = r.GetObjectMany(ctx, &many)
	s.is("many large ones", err, codes.ResourceExhausted, "ask for fewer")
	objects, err := all(s.exporter().Export(ctx, &exporter.ExportRequest{Options: uint32(exporter.Option_OPTION_DATA_OBJECTS)}))
	if err != nil || len(objects) != 21 {
		t.Errorf("a stream of them: %d, %v", len(objects), err)
	}
	_, err = r.Check(ctx, ask("doc:"+strings.Repeat("x", 5<<20), "can_read", "user:1"))
	s.is("a message of 5 MiB", err, codes.ResourceExhausted, "")
	_, err = s.writer().SetObject(ctx, &writer.SetObjectRequest{Object: &common.Object{Type: "user", Id: "x", DisplayName: strings.Repeat("x", 5<<20)}})
	s.is("to write", err, codes.ResourceExhausted, "")
	_, err = r.Check(metadata.AppendToOutgoingContext(ctx, "x-large", strings.Repeat("x", 1<<20)), ask("doc:1", "can_read", "user:1"))
	if err == nil {
		t.Error("headers of 1 MiB are taken")
	}
}

// TestDeadlines: a call ends with its caller's deadline, or when the caller goes away, and the service goes on.
func TestDeadlines(t *testing.T) {
	s := newWritable(t)
	ended, cancel := context.WithDeadline(s.as("writer"), time.Unix(1, 0))
	defer cancel()
	_, err := s.reader().Check(ended, ask("doc:1", "can_read", "user:ann"))
	s.is("a deadline that is over", err, codes.DeadlineExceeded, "")
	_, err = s.writer().SetObject(ended, setObject("user", "late", ""))
	s.is("a write", err, codes.DeadlineExceeded, "")

	leaving, leave := context.WithCancel(s.as("writer"))
	stream, err := s.importer().Import(leaving)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 { // a whole batch, and one that never ends
		if err := stream.Send(object(set, fmt.Sprintf("user:%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Send(&importer.ImportRequest{}); err != nil { // the answer to it comes after the batch
		t.Fatal(err)
	}
	if got, err := stream.Recv(); err != nil || got.GetStatus() == nil {
		t.Fatalf("%v, %v", got, err)
	}
	if err := stream.Send(object(set, "user:half")); err != nil {
		t.Fatal(err)
	}
	leave()
	_, err = stream.Recv()
	s.is("who left", err, codes.Canceled, "")
	if got, err := s.reader().GetObject(s.as("reader"), &reader.GetObjectRequest{ObjectType: "user", ObjectId: "999"}); err != nil || got.Result.Id != "999" {
		t.Errorf("the batch that was complete: %v", err)
	}
	_, err = s.reader().GetObject(s.as("reader"), &reader.GetObjectRequest{ObjectType: "user", ObjectId: "half"})
	s.is("the one that was not", err, codes.NotFound, "")
}

// TestExporter exports all, or a part.
func TestExporter(t *testing.T) {
	s := newService(t, "file: people", "")
	s.people(somePeople...)
	s.start()
	for options, want := range map[uint32][2]int{0: {0, 0}, 8: {9, 0}, 16: {0, 8}, 24: {9, 8}, 1: {0, 0}, 24 | 1<<20: {9, 8}} {
		out, err := all(s.exporter().Export(s.as("reader"), &exporter.ExportRequest{Options: options}))
		if err != nil {
			t.Fatal(err)
		}
		var got [2]int
		for _, m := range out {
			if m.GetObject() != nil {
				got[0]++
			}
			if m.GetRelation() != nil {
				got[1]++
			}
		}
		if got != want {
			t.Errorf("options %d: %v, want %v", options, got, want)
		}
	}
	out, err := all(s.exporter().Export(s.as("reader"), &exporter.ExportRequest{Options: uint32(exporter.Option_OPTION_STATS)}))
	if err != nil || len(out) != 1 || out[0].GetStats().AsMap()["objects"] != 9.0 {
		t.Errorf("%v, %v", out, err)
	}
	_, err = all(s.exporter().Export(s.as("reader"), &exporter.ExportRequest{Options: 24, StartFrom: timestamppb.Now()}))
	s.is("since a time", err, codes.InvalidArgument, "start_from")
	if out, err := all(s.exporter().Export(s.as("reader"), &exporter.ExportRequest{Options: 8, StartFrom: &timestamppb.Timestamp{}})); err != nil || len(out) != 9 {
		t.Errorf("since the beginning: %d, %v", len(out), err)
	}
}

// TestNoDirectory: without a directory all of it is unavailable, and says so.
func TestNoDirectory(t *testing.T) {
	s := newService(t, "file: people", "")
	if err := os.RemoveAll(filepath.Join(s.dir, "people")); err != nil {
		t.Fatal(err)
	}
	s.start()
	_, err := s.reader().Check(s.as("reader"), ask("doc:1", "can_read", "user:ann"))
	s.is("Check", err, codes.Unavailable, "directory")
	_, err = all(s.model().GetManifest(s.as("reader"), &model.GetManifestRequest{}))
	s.is("GetManifest", err, codes.Unavailable, "directory")
	_, err = all(s.exporter().Export(s.as("reader"), &exporter.ExportRequest{Options: 24}))
	s.is("Export", err, codes.Unavailable, "directory")
}

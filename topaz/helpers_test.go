package topaz_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	"gatehouse/config"
	"gatehouse/identity/apikey"
	"gatehouse/server"
	"gatehouse/topaz/pb/authorizer"
	"gatehouse/topaz/pb/exporter"
	"gatehouse/topaz/pb/importer"
	"gatehouse/topaz/pb/model"
	"gatehouse/topaz/pb/reader"
	"gatehouse/topaz/pb/writer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a whole service of a configuration in a folder, with a connection to its directory listener.
type service struct {
	*testing.T
	dir     string
	address string
	keys    map[string]string // by name: the keys that are in the file
	conn    *grpc.ClientConn
	stop    func()
}

const manifest = `model:
  version: 3
types:
  user: {}
  identity:
    relations: {identifier: user}
  group:
    relations: {member: user | group#member | user:*}
  folder:
    relations: {owner: user}
  doc:
    relations:
      parent: folder
      viewer: user | group#member | user:*
      editor: user
    permissions:
      can_read: viewer | editor | parent->owner
`

// newService writes a folder. settings are more of the configuration; the directory is in the folder people.
func newService(t *testing.T, directorySettings, more string) *service {
	t.Helper()
	s := &service{T: t, dir: t.TempDir(), keys: map[string]string{}}
	s.address = "unix:" + filepath.Join(s.dir, "directory.sock")
	s.write("policy/authz.rego", "package envoy.authz\n\nallow := true\n")
	s.write("people/manifest.yaml", manifest)
	s.newKey("reader")
	s.newKey("app", "act-as")
	s.newKey("writer", "write")
	s.write("gatehouse.yaml", "listen: {grpc: [\"unix:grpc.sock\"], admin: \"\", directory: {grpc: [\""+s.address+"\"], keys: keys.yaml}}\n"+
		"policy: {bundles: [{path: policy}]}\ndecision_log: {file: decisions.log}\nstate_dir: state\nlog: {level: info}\ndirectory: {"+directorySettings+"}\n"+more)
	return s
}

func (s *service) write(name, text string) {
	s.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		s.Fatal(err)
	}
}

// newKey adds a key to the file.
func (s *service) newKey(name string, scopes ...string) {
	s.Helper()
	k, err := apikey.New(apikey.Entry{Subject: name, Scopes: scopes})
	if err != nil {
		s.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join(s.dir, "keys.yaml"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Fatal(err)
	}
	text := k.YAML()
	if len(old) > 0 {
		if text, err = k.AppendTo("keys.yaml", old); err != nil {
			s.Fatal(err)
		}
	}
	s.keys[name] = k.Reveal()
	s.write("keys.yaml", string(text))
}

// people writes the directory: objects type:id, and relations object#relation@subject.
func (s *service) people(lines ...string) {
	s.Helper()
	var objects, relations strings.Builder
	for _, line := range lines {
		if strings.HasPrefix(line, "{") {
			objects.WriteString(line + "\n")
			continue
		}
		object, rest, related := strings.Cut(line, "#")
		typ, id, _ := strings.Cut(object, ":")
		if !related {
			objects.WriteString(text(map[string]string{"type": typ, "id": id}))
			continue
		}
		rest, expires, _ := strings.Cut(rest, " until ")
		relation, rest, _ := strings.Cut(rest, "@")
		subject, set, _ := strings.Cut(rest, "#")
		subjectType, subjectID, _ := strings.Cut(subject, ":")
		r := map[string]string{"object_type": typ, "object_id": id, "relation": relation, "subject_type": subjectType, "subject_id": subjectID}
		if set != "" {
			r["subject_relation"] = set
		}
		if expires != "" {
			r["expires_at"] = expires
		}
		relations.WriteString(text(r))
	}
	s.write("people/objects.jsonl", objects.String())
	s.write("people/relations.jsonl", relations.String())
}

func text(of map[string]string) string {
	b, err := json.Marshal(of)
	if err != nil {
		panic(err) // strings
	}
	return string(b) + "\n"
}

// start serves until the test ends, and connects.
func (s *service) start() *service {
	s.Helper()
	srv, err := server.New(s.Context(), server.Config{Source: config.Source{File: filepath.Join(s.dir, "gatehouse.yaml")}, Version: "v1.2.3", WaitForPolicy: true})
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }() // goroutine: of a test, which a panic may end
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.Error(err)
		}
	})
	s.Cleanup(s.stop)
	s.conn = s.connect(insecure.NewCredentials())
	return s
}

func (s *service) connect(c credentials.TransportCredentials) *grpc.ClientConn {
	s.Helper()
	target := s.address
	if !strings.HasPrefix(target, "unix:") {
		target = "passthrough:" + target
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(c), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close() }) // nothing is under way
	return conn
}

// as is a context with a key, as Aserto's clients send it.
func (s *service) as(name string, headers ...string) context.Context {
	return metadata.AppendToOutgoingContext(s.Context(), append([]string{"authorization", "basic " + s.keys[name]}, headers...)...)
}

func (s *service) reader() reader.ReaderClient       { return reader.NewReaderClient(s.conn) }
func (s *service) writer() writer.WriterClient       { return writer.NewWriterClient(s.conn) }
func (s *service) importer() importer.ImporterClient { return importer.NewImporterClient(s.conn) }
func (s *service) exporter() exporter.ExporterClient { return exporter.NewExporterClient(s.conn) }
func (s *service) model() model.ModelClient          { return model.NewModelClient(s.conn) }
func (s *service) authorizer() authorizer.AuthorizerClient {
	return authorizer.NewAuthorizerClient(s.conn)
}

// is compares an error's code, and looks for a text in it.
func (s *service) is(what string, err error, code codes.Code, saying string) {
	s.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), saying) {
		s.Errorf("%s: %v, want %v saying %q", what, err, code, saying)
	}
}

// equal compares messages, etags aside.
func equal(t *testing.T, what string, got, want proto.Message, ignore ...string) {
	t.Helper()
	options := []cmp.Option{protocmp.Transform(), protocmp.IgnoreEmptyMessages()}
	for _, name := range ignore {
		options = append(options, cmp.FilterPath(func(p cmp.Path) bool { return strings.HasSuffix(p.GoString(), `["`+name+`"]`) }, cmp.Ignore()))
	}
	if diff := cmp.Diff(want, got, options...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// all are the messages of a stream.
func all[T any](stream grpc.ServerStreamingClient[T], err error) (out []*T, _ error) {
	for err == nil {
		var m *T
		if m, err = stream.Recv(); err == nil {
			out = append(out, m)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return out, err
}

// logged are the decisions on record, once there are n.
func (s *service) logged(n int) (lines []map[string]any) {
	s.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		raw, err := os.ReadFile(filepath.Join(s.dir, "decisions.log"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.Fatal(err)
		}
		if strings.Count(string(raw), "\n") >= n {
			for line := range strings.Lines(string(raw)) {
				var entry map[string]any
				if err := json.Unmarshal([]byte(line), &entry); err != nil {
					s.Fatal(err)
				}
				lines = append(lines, entry)
			}
			return lines
		}
		if time.Now().After(end) {
			s.Fatalf("%s\nwant %d decisions", raw, n)
		}
	}
}

// freeAddress is a TCP address on which nobody listened a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// trusting trusts one certificate; nil: none.
func trusting(cert *x509.Certificate) credentials.TransportCredentials {
	pool := x509.NewCertPool()
	if cert != nil {
		pool.AddCert(cert)
	}
	return credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "localhost"})
}

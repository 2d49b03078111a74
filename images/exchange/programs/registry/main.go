// Command registry is the Distribution project's registry, in memory, on a free port of 127.0.0.1. It prints its address and
// ends with its standard input.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

func main() {
	cert := flag.String("cert", "", "certificate: serve HTTPS")
	key := flag.String("key", "", "its key")
	user := flag.String("user", "", "ask for this user, whose password is in $REGISTRY_PASSWORD")
	flag.Parse()
	logrus.SetOutput(io.Discard)

	config := &configuration.Configuration{Storage: configuration.Storage{
		"inmemory": configuration.Parameters{},
		"delete":   configuration.Parameters{"enabled": true},
	}}
	config.HTTP.Secret = "for tests"
	config.Log.Level = "error"
	if *user != "" {
		config.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "registry", "path": passwords(*user, os.Getenv("REGISTRY_PASSWORD"))}}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: handlers.NewApp(context.Background(), config), ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Println(listener.Addr())
	if *cert != "" {
		err = server.ServeTLS(listener, *cert, *key)
	} else {
		err = server.Serve(listener)
	}
	if err != http.ErrServerClosed {
		log.Fatal(err)
	}
}

// passwords writes an htpasswd file.
func passwords(user, password string) string {
	dir, err := os.MkdirTemp("", "registry")
	if err != nil {
		log.Fatal(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600); err != nil {
		log.Fatal(err)
	}
	return path
}

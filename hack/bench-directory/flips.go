package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"gatehouse/directory"
	"gatehouse/envoy/sandbox"
	"gatehouse/identity/apikey"
	"gatehouse/topaz/pb/common"
	"gatehouse/topaz/pb/writer"
)

const (
	smallFlips = 50 // added and taken away in turn: enough for a 99th percentile that is not the slowest of a few
	flipTarget = 200 * time.Millisecond
)

// until asks through Envoy until the answer has one of these statuses, and is how long that took since began.
func (n *node) until(ctx context.Context, c call, began time.Time, pause func(), statuses ...int) (time.Duration, error) {
	for {
		answer, err := n.Do(ctx, sandbox.Call{Path: c.path, Token: c.token})
		if err != nil {
			return 0, err
		}
		took := time.Since(began)
		switch {
		case slices.Contains(statuses, answer.Status):
			return took, nil
		case took > time.Minute:
			return 0, fmt.Errorf("a change of the directory is not in force after a minute: %d %s", answer.Status, answer.Body)
		}
		pause()
	}
}

// smallFlips adds a relation to the file of the example's own directory, and takes it away again.
func (e *edgeBench) smallFlips(ctx context.Context, n *node) error {
	file := filepath.Join(e.dir, "small", "directory", "directory.yaml")
	without, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	with := strings.Replace(string(without), "relations:\n", "relations:\n  - order:4#reader@user:alice\n", 1)
	c := call{token: n.Token("alice"), path: orderPath(4)}
	if _, err := n.until(ctx, c, time.Now(), func() {}, http.StatusForbidden); err != nil {
		return err
	}
	var took []time.Duration
	for i := range smallFlips {
		text, want := with, http.StatusOK
		if i%2 == 1 {
			text, want = string(without), http.StatusForbidden
		}
		if err := os.WriteFile(file+".draft", []byte(text), 0o644); err != nil {
			return err
		}
		began := time.Now()
		if err := os.Rename(file+".draft", file); err != nil {
			return err
		}
		d, err := n.until(ctx, c, began, func() {}, want)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	e.rows = append(e.rows, flipRows("file changed to decision flipped", took, false)...)
	return nil
}

// flipRows are the percentiles of flips, with the target where there is one.
func flipRows(what string, took []time.Duration, large bool) [][3]string {
	took = slices.Sorted(slices.Values(took))
	row := func(name string, d time.Duration) [3]string {
		text := fmt.Sprintf("%.0f ms", d.Seconds()*1000)
		if d > flipTarget {
			text += " MISSED"
		}
		if large {
			return [3]string{what + ", " + name, "", text}
		}
		return [3]string{what + ", " + name, text, ""}
	}
	return [][3]string{row(fmt.Sprintf("p50 of %d", len(took)), took[len(took)/2]), row("p99", took[(len(took)*99+99)/100-1])}
}

// owned is the world in a directory that the node itself owns: a client writes relations, and each flips a decision.
func (e *edgeBench) owned(ctx context.Context) error {
	key, err := apikey.New(apikey.Entry{Subject: "bench", Scopes: []string{"write"}})
	if err != nil {
		return err
	}
	n, err := e.start(ctx, "owned", filepath.Join(e.dir, worldFile), &key)
	if err == nil {
		err = e.measureOwned(ctx, n, key.Reveal())
	}
	if n != nil {
		err = errors.Join(err, n.stop())
	}
	return err
}

func (e *edgeBench) measureOwned(ctx context.Context, n *node, key string) error {
	conn, err := grpc.NewClient("unix:"+filepath.Join(e.dir, "owned", "directory.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := writer.NewWriterClient(conn)
	asWriter := metadata.AppendToOutgoingContext(ctx, "authorization", "basic "+key)
	var took []time.Duration
	for i := range smallFlips / 2 {
		u, order := i*(e.world.users/smallFlips)+18, i*(e.world.resources/smallFlips/1000)*1000+999 // such an order no group may see, and change had other users
		if e.allowed(u, order) {
			return fmt.Errorf("user %d may read order %d already", u, order)
		}
		c := call{token: n.Token(user(u).ID), path: orderPath(order + 1)}
		if err := e.one(ctx, n, c); err != nil {
			return err
		}
		id := strconv.Itoa(order + 1)
		began := time.Now()
		if _, err := client.SetRelation(asWriter, &writer.SetRelationRequest{Relation: &common.Relation{ObjectType: "order", ObjectId: id, Relation: "reader", SubjectType: "user", SubjectId: user(u).ID}}); err != nil {
			return err
		}
		d, err := n.until(ctx, c, began, func() {}, http.StatusNotFound)
		if err != nil {
			return err
		}
		took = append(took, d)
		began = time.Now()
		if _, err := client.DeleteRelation(asWriter, &writer.DeleteRelationRequest{ObjectType: "order", ObjectId: id, Relation: "reader", SubjectType: "user", SubjectId: user(u).ID}); err != nil {
			return err
		}
		if d, err = n.until(ctx, c, began, func() {}, http.StatusForbidden); err != nil {
			return err
		}
		took = append(took, d)
	}
	// The first write of a new node waits until all that the node began with is on the disk.
	e.row("directory.writable: first write to decision flipped", "", seconds(took[0]))
	e.rows = append(e.rows, flipRows("directory.writable: written to decision flipped", took[1:], true)...)
	return nil
}

// owns makes a configuration one whose node owns its directory, which begins with the file.
func owns(config, file string) string {
	config = strings.Replace(config, "listen:\n", "listen:\n  directory: {grpc: [\"unix:directory.sock\"], keys: keys.yaml}\n", 1)
	return strings.Replace(config, "file: "+file+" ", "writable: true\n  file: "+file+" ", 1)
}

// added is the relation that makes a user a reader of an order.
func added(u, order int) directory.Relation {
	return relation(directory.Ref{Type: "order", ID: strconv.Itoa(order + 1)}, "reader", user(u), "")
}

package server

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/panics"
)

// reload reads the configuration again and makes all of it active in one step, except what needs a restart, or none of it. It gives up when until ends:
// a server that does not answer must not hold up the process's end. It logs the outcome, and returns it.
func (s *Server) reload(until, ctx context.Context) error {
	defer s.reloads.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(until, cancel)() // goroutine: it only cancels
	err := func() (err error) {
		defer panics.Into("reloading the configuration", &err)
		cfg, doc, err := s.with.read()
		if err != nil {
			return err
		}
		found := doc.Problems()
		found.Add("log", validateLog(cfg.Log))
		found.Add("listen", s.with.validateListen(cfg.Listen))
		wanted := cfg.StateDir
		cfg.StateDir = s.config.StateDir // what is kept there belongs to this process until it ends
		active, err := s.node.Reload(ctx, cfg, found)
		if active {
			setLevel(cfg.Log, s.level)
			s.needsRestart(cfg, wanted, doc)
		}
		return err
	}()
	if err != nil {
		text := err.Error()
		s.reloadErr.Store(&text)
		s.logger.Error("reload failed, the running configuration stays", zap.Error(err))
		return err
	}
	s.reloadErr.Store(nil)
	s.logger.Info("reloaded the configuration")
	return nil
}

// askReload has the configuration read again, and waits for the outcome.
func (s *Server) askReload(ctx context.Context) error {
	told := make(chan error, 1)
	select {
	case s.asked <- told:
	case <-ctx.Done():
		return errors.New("the process does not come to it: it is ending, or another reload takes long")
	}
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it takes longer than %v and goes on: gatehouse status and the log say how it ended", controlTimeout)
	}
}

// needsRestart names each key that the new configuration changes and a reload cannot, and says so until the process is restarted or the
// key is as it was.
func (s *Server) needsRestart(cfg *config.Config, stateDir string, doc *config.Document) {
	changed := changedKeys("listen", reflect.ValueOf(s.config.Listen), reflect.ValueOf(cfg.Listen))
	if cfg.Traces != s.config.Traces {
		changed = append(changed, "traces")
	}
	if cfg.Log.Format != s.config.Log.Format {
		changed = append(changed, "log.format")
	}
	if stateDir != s.config.StateDir {
		changed = append(changed, "state_dir")
	}
	for _, key := range changed {
		s.logger.Warn("this part of the configuration changed and needs a restart; until then it is as it was",
			zap.String("key", key), zap.String("at", doc.At(key)))
	}
	s.awaitsRestart.Store(&changed)
}

// changedKeys are the keys below one whose values differ.
func changedKeys(key string, was, now reflect.Value) (keys []string) {
	if was.Kind() == reflect.Pointer && !was.IsNil() && !now.IsNil() {
		was, now = was.Elem(), now.Elem()
	}
	if was.Kind() != reflect.Struct {
		if !reflect.DeepEqual(was.Interface(), now.Interface()) {
			keys = append(keys, key)
		}
		return keys
	}
	for i := range was.NumField() {
		if name := config.Key(was.Type().Field(i)); name != "-" {
			keys = append(keys, changedKeys(key+"."+name, was.Field(i), now.Field(i))...)
		}
	}
	return keys
}

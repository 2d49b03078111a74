package main

import (
	"context"
	"reflect"
	"time"

	"go.uber.org/zap"
)

// reload reads the configuration again and makes all of it but listen active in one step, or none of it.
func (s *server) reload(ctx context.Context, failed func(error)) {
	err := func() error {
		cfg, doc, err := s.source.read()
		if err != nil {
			return err
		}
		found := &problems{doc: doc, errs: doc.errs}
		found.add("log", cfg.Log.validate())
		e, policyErr, err := newEngine(ctx, cfg, found, s.logger, s.engine)
		if err != nil {
			return err
		}
		if policyErr != nil {
			e.sink.discard(s.engine.sink)
			return policyErr
		}
		if e.keys != nil {
			e.keys = e.verifier.Inherit(s.gate.View().Keys)
		}
		if err := s.gate.Fit(e.parts(true)); err != nil {
			e.sink.discard(s.engine.sink)
			return err
		}
		if e.minter != nil {
			e.minter.Succeed(s.engine.minter)
		}
		cfg.Log.setLevel(s.level)
		s.engine.halt() // so that the old sources publish nothing over the new ones
		e.sink.start(ctx, s.gate, failed)
		if err := s.gate.Publish(ctx, e.parts(true)); err != nil {
			return err
		}
		s.needsRestart(cfg)
		old := s.engine.sink
		s.setEngine(e)
		e.start(ctx, s.gate, failed)
		if old == e.sink {
			return e.sink.log.Reopen()
		}
		s.retired.Go(func() { // requests that began before the reload still write to it
			time.Sleep(2 * time.Duration(cfg.Policy.Timeout))
			old.halt()
		})
		return nil
	}()
	if err != nil {
		text := err.Error()
		s.reloadErr.Store(&text)
		s.logger.Error("reload failed, the old configuration stays", zap.Error(err))
		return
	}
	s.reloadErr.Store(nil)
	s.logger.Info("reloaded the configuration")
}

// needsRestart names what the new configuration changes and a reload cannot.
func (s *server) needsRestart(cfg *config) {
	for key, changed := range map[string]bool{
		"listen":     !reflect.DeepEqual(cfg.Listen, s.config.Listen),
		"traces":     cfg.Traces != s.config.Traces,
		"log.format": cfg.Log.Format != s.config.Log.Format,
	} {
		if changed {
			s.logger.Warn("this part of the configuration changed and needs a restart; the old one stays in use", zap.String("key", key))
		}
	}
}

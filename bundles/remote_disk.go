package bundles

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"

	"gatehouse/bundles/tarball"
	"gatehouse/policy/bundle"
)

// open reads the bundle on disk, once.
func (r *remote) open() {
	if r.opened || r.store == nil {
		return
	}
	r.opened = true
	k, err := r.store.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		r.logger.Error("bundle kept on disk is not used", zap.String("bundle", r.name), zap.String("file", r.store.file(".bundle")), zap.Error(err))
		return
	}
	if k.Confirmed.After(r.clock().Add(maxFutureTime)) {
		k.Confirmed = time.Time{} // its age is unknown
	}
	r.disk, r.highest = &k, k.Serial
}

// deliverFromDisk delivers the bundle on disk, unless there is none, it is older than max_age, or it is unusable. It reports whether it did.
func (r *remote) deliverFromDisk(ctx context.Context, deliver deliver, unconfirmed bool) bool {
	if r.disk == nil {
		return false
	}
	k := *r.disk
	if unconfirmed {
		old := r.cfg.MaxAge > 0 && r.clock().Sub(k.Confirmed) > r.cfg.MaxAge
		if r.confirmed = k.Confirmed; old && !r.expired {
			r.setExpired()
		}
		if old && r.cfg.Withdraw {
			return false
		}
	}
	r.disk = nil
	d, next, err := r.restore(k)
	if err != nil {
		r.logger.Error("bundle kept on disk is not used", zap.String("bundle", r.name), zap.String("file", r.store.file(".bundle")), zap.Error(err))
		return false
	}
	r.last = next
	r.note(func(s *RemoteStatus) {
		s.Tag, s.Delta, s.FromDisk, s.Confirmed = displayTag(next.tag), next.parts > 1, unconfirmed, r.confirmed
	})
	r.metrics.fromDisk(r.name, unconfirmed)
	r.metrics.confirmed.WithLabelValues(r.name).Set(seconds(r.confirmed))
	if unconfirmed {
		r.logger.Warn("using the bundle kept on disk", zap.String("bundle", r.name), zap.String("source", r.from),
			zap.Time("confirmed", k.Confirmed), zap.Duration("age", r.clock().Sub(k.Confirmed).Round(time.Second)))
	}
	if err := r.deliverLast(ctx, deliver, d); err != nil && !errors.Is(err, errIncomplete) && !errors.Is(err, errPinned) && ctx.Err() == nil {
		// Run has reported what is wrong with it. Its tag must not be used for the next request: a "not modified" would confirm it.
		r.logger.Error("bundle kept on disk is not used", zap.String("bundle", r.name), zap.String("file", r.store.file(".bundle")), zap.Error(err))
		r.last = lastBundle{}
		return false
	}
	return true
}

// restore makes a delivery from what is on disk.
func (r *remote) restore(k kept) (delivery, lastBundle, error) {
	next := lastBundle{tag: k.Tag, parts: len(k.parts)}
	files, archive, err := tarball.Unpack(r.name, bytes.NewReader(k.parts[0]), r.limits)
	if err != nil {
		return delivery{}, next, err
	}
	d := delivery{files: files, archive: archive, from: r.from, copy: copyOf(k.parts[0], archive)}
	if _, delta := files[bundle.DeltaFile]; delta || len(k.parts) > 1 && !r.deltas {
		return delivery{}, next, errors.New("it was changed by deltas, which is not allowed")
	}
	if err := r.readBase(&next, &d); err != nil {
		return delivery{}, next, err
	}
	for i, part := range k.parts {
		next.bytes += int64(len(part))
		next.state = stateAfter(next.state, part)
		if i == 0 {
			continue
		}
		delta, _, err := tarball.Unpack(r.name, bytes.NewReader(part), r.limits)
		if err != nil {
			return delivery{}, next, err
		}
		if len(d.parts) == 0 {
			d.parts = []archivePart{wholePart(next.base.Digest(), files)}
		}
		before := next.base.Digest()
		if next.base, err = next.base.Patch(delta[".manifest"], delta[bundle.DeltaFile]); err != nil {
			return delivery{}, next, err
		}
		d.parts = append(d.parts, archivePart{digest: next.base.Digest(), before: before, files: delta})
		next.data += int64(len(delta[bundle.DeltaFile]))
		d.copy = d.copy.with(part)
		d.bundle, d.files, d.data = next.base, next.files, next.data
	}
	next.saved, next.copy = next.state, d.copy
	return d, next, nil
}

// save writes the active bundle to disk.
func (r *remote) save() {
	if !r.current() || r.store == nil {
		return
	}
	if r.last.saved == r.last.state {
		if _, err := os.Lstat(r.store.file(".bundle")); errors.Is(err, fs.ErrNotExist) {
			r.fetchWhole, r.forceDelivery, r.last.saved = true, true, "" // fetch it whole with the next request, and keep that
			r.saveFailed(errors.New("its file was removed while it was in use: the bundle is fetched again"))
		}
		return
	}
	if !r.last.fresh && len(r.last.unsaved) == 0 {
		return // the file was removed: see above
	}
	r.disk = nil
	k := kept{Tag: r.last.tag, Confirmed: r.confirmed, Serial: r.active.Load(), parts: r.last.unsaved}
	if err := r.append(&k); err == nil {
		err = r.store.save(k)
		if err == nil {
			r.last.saved, r.last.unsaved, r.last.fresh = r.last.state, nil, false
			r.metrics.unsaved.WithLabelValues(r.name).Set(0)
			r.note(func(s *RemoteStatus) { s.NotKept = false })
			return
		}
		r.saveFailed(err)
	} else {
		r.saveFailed(err)
	}
}

// append combines the tarballs on disk with the deltas to be kept.
func (r *remote) append(k *kept) error {
	if r.last.fresh {
		return nil
	}
	before, err := r.store.load()
	if err != nil {
		return err
	}
	if stateOf(before.parts) != r.last.saved {
		return errors.New("another bundle is on disk than the one that the deltas change")
	}
	k.parts = append(before.parts, k.parts...)
	return nil
}

func (r *remote) saveFailed(err error) {
	r.metrics.unsaved.WithLabelValues(r.name).Set(1)
	r.note(func(s *RemoteStatus) { s.NotKept = true })
	r.logger.Error("bundle is active and cannot be kept on disk: a restart without its source would use an older one, or none",
		zap.String("bundle", r.name), zap.Error(err))
}

create table meta (key text primary key, value text not null) strict;

create table environment (
  id integer primary key, name text not null unique, revision integer not null, digest text not null, created_at integer not null
) strict;

create table manifest (
  environment integer not null references environment, revision integer not null, text blob not null,
  primary key (environment, revision)
) strict;

-- revision is the one that last changed the row: its etag
create table object (
  environment integer not null references environment, type text not null, id text not null, display_name text not null,
  properties blob, revision integer not null, source text not null,
  primary key (environment, type, id)
) strict, without rowid;

create table relation (
  environment integer not null references environment, object_type text not null, object_id text not null, relation text not null,
  subject_type text not null, subject_id text not null, subject_relation text not null,
  expires_at integer not null, -- seconds since 1970; 0: never
  revision integer not null, source text not null,
  primary key (environment, object_type, object_id, relation, subject_type, subject_id, subject_relation)
) strict, without rowid;
create index relation_subject on relation (environment, subject_type, subject_id);

-- the log of writes: what edges lack is read from it, and who changed what
create table change (
  environment integer not null references environment, revision integer not null, epoch text not null, at integer not null,
  actor text not null, source text not null, digest text not null, ops blob not null, size integer not null,
  primary key (environment, revision)
) strict;

create table idempotency (
  environment integer not null references environment, key text not null, request blob not null, revision integer not null, at integer not null,
  primary key (environment, key)
) strict, without rowid;
create index idempotency_at on idempotency (at);

create table token (
  id text primary key, name text not null, hash blob not null, scopes text not null, created_by text not null,
  created_at integer not null, expires_at integer not null, revoked_at integer not null
) strict;

create table enrollment (
  id text primary key, hash blob not null, environment integer not null references environment, name text not null, created_by text not null,
  created_at integer not null, expires_at integer not null,
  used_key blob, edge text -- the public key that it was used for, and the edge that came of it
) strict;

create table edge (
  id text primary key, environment integer not null references environment, name text not null, version text not null,
  enrolled_at integer not null, last_seen integer not null, revision integer not null, degraded text not null, error text not null,
  certificate_expires integer not null, revoked_at integer not null
) strict;

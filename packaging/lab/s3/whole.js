// Preloaded by s3rver, to keep two promises of S3 that it does not keep:
// 1. An object is there whole or not at all. s3rver writes it in place: who looks meanwhile, or after a loss of power,
//    sees half of it, and a full disk ends the server.
// 2. A listing up to a delimiter tells every folder. s3rver leaves out those that hold nothing but folders.
'use strict';

const { createHash } = require('crypto');
const fs = require('fs');
const path = require('path');
const { pipeline } = require('stream/promises');

const S3RVER = '/opt/s3rver/node_modules/s3rver/lib';
const Store = require(`${S3RVER}/stores/filesystem`);
const S3Object = require(`${S3RVER}/models/object`);

let drafts = 0;

// Writes content (a stream or an iterable of chunks) beside target, on the disk when this is fulfilled.
async function draft(target, content) {
  const temp = `${target}.${process.pid}-${drafts++}.part`;
  const hash = createHash('md5');
  let size = 0;
  async function* measured(chunks) {
    for await (const chunk of chunks) {
      hash.update(chunk);
      size += chunk.length;
      yield chunk;
    }
  }
  await fs.promises.mkdir(path.dirname(target), { recursive: true });
  try {
    await pipeline(content, measured, fs.createWriteStream(temp, { flush: true }));
  } catch (error) {
    await fs.promises.rm(temp, { force: true });
    throw error;
  }
  return { temp, target, size, md5: hash.digest('hex') };
}

// Puts every text to its path and content to target, which is last: only with it the rest counts.
async function put(target, content, texts) {
  const main = await draft(target, content);
  const drawn = [main];
  try {
    for (const [beside, text] of texts(main.md5)) drawn.unshift(await draft(beside, [Buffer.from(text)]));
    for (const { temp, target } of drawn) await fs.promises.rename(temp, target);
  } catch (error) {
    for (const { temp } of drawn) await fs.promises.rm(temp, { force: true });
    throw error;
  }
  return { size: main.size, md5: main.md5 };
}

Store.prototype.putObject = async function ({ bucket, key, content, metadata }) {
  const place = (type) => this.getResourcePath(bucket, key, type);
  const kept = Object.entries(metadata).filter(
    ([name]) => S3Object.ALLOWED_METADATA.includes(name) || name.startsWith('x-amz-meta-'),
  );
  return put(place('object'), Buffer.isBuffer(content) ? [content] : content, (md5) => [
    [place('object.md5'), md5],
    [place('metadata.json'), JSON.stringify(Object.fromEntries(kept))],
  ]);
};

Store.prototype.putPart = async function (bucket, uploadId, partNumber, content) {
  const target = path.join(this.getResourcePath(bucket, undefined, 'uploads'), uploadId, String(partNumber));
  return put(target, content, (md5) => [[`${target}.md5`, md5]]);
};

function holdsAnObject(folder) {
  return fs.readdirSync(folder, { withFileTypes: true }).some((entry) =>
    entry.isDirectory() ? holdsAnObject(path.join(folder, entry.name)) : entry.name.endsWith('._S3rver_object'),
  );
}

const list = Store.prototype.listObjects;

Store.prototype.listObjects = async function (bucket, options) {
  const told = await list.call(this, bucket, options);
  const { delimiter, prefix = '', startAfter = '' } = options;
  if (delimiter !== '/') return told;
  const within = prefix.slice(0, prefix.lastIndexOf('/') + 1);
  const folder = path.join(this.getBucketPath(bucket), within);
  const last = told.isTruncated ? told.objects[told.objects.length - 1].key : undefined;
  const known = new Set(told.commonPrefixes);
  for (const entry of fs.existsSync(folder) ? fs.readdirSync(folder, { withFileTypes: true }) : []) {
    const name = `${within}${entry.name}/`;
    const here = name.startsWith(prefix) && name > startAfter && (last === undefined || name < last);
    if (entry.isDirectory() && here && holdsAnObject(path.join(folder, entry.name))) known.add(name);
  }
  return { ...told, commonPrefixes: [...known].sort() };
};

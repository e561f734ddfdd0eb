// node shop.mjs FOLDER PAGE [EVENTKIT CLICKS]: serves a folder on an origin of its own, opens a page of it in Chromium and presses its
// button so often. It stays open until standard input ends.
import { readFile } from 'node:fs/promises'
import { extname, join, normalize } from 'node:path'
import { start } from './site.mjs'

const [folder, opened, eventkit, clicks = 0] = process.argv.slice(2)
const types = { '.html': 'text/html', '.js': 'text/javascript' }

const find = async (url) => {
  const name = normalize(new URL(url, 'http://site').pathname)
  return { type: types[extname(name)] ?? 'application/octet-stream', body: await readFile(join(folder, name)) }
}
const query = eventkit ? `?eventkit=${encodeURIComponent(eventkit)}` : ''
const { open, end } = await start(find)
const page = await open(`/${opened}${query}`)
for (let n = 0; n < Number(clicks); n += 1) await page.click('button')
if (clicks > 0) {
  await page.getByText(`stored ${clicks}`).waitFor({ timeout: 90_000 })
  console.log(await page.textContent('p'))
}
await end()

// node shop.mjs FOLDER PAGE [EVENTKIT CLICKS]: serves a folder on an origin of its own, opens a page of it in Chromium and presses its
// button so often. It stays open until standard input ends.
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'
import { chromium } from 'playwright-core'

const [folder, opened, eventkit, clicks = 0] = process.argv.slice(2)
const types = { '.html': 'text/html', '.js': 'text/javascript' }

const site = createServer(async (request, response) => {
  const name = normalize(new URL(request.url, 'http://site').pathname)
  try {
    const file = await readFile(join(folder, name))
    response.setHeader('content-type', types[extname(name)] ?? 'application/octet-stream')
    response.end(file)
  } catch {
    response.writeHead(404).end()
  }
})
site.listen(0, '127.0.0.1')
await once(site, 'listening')

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-dev-shm-usage'],
})
const page = await browser.newPage()
page.on('console', (message) => console.log('page:', message.text()))
page.on('pageerror', (error) => console.log('page error:', String(error)))
const query = eventkit ? `?eventkit=${encodeURIComponent(eventkit)}` : ''
await page.goto(`http://127.0.0.1:${site.address().port}/${opened}${query}`)
for (let n = 0; n < Number(clicks); n += 1) await page.click('button')
if (clicks > 0) {
  await page.getByText(`stored ${clicks}`).waitFor({ timeout: 90_000 })
  console.log(await page.textContent('p'))
}
process.stdin.resume()
await once(process.stdin, 'end')
await browser.close()
site.close()

// node shop.mjs FOLDER EVENTKIT CLICKS: serves a folder on an origin of its own, opens its page in Chromium and presses the button.
// It stays open until standard input ends.
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'
import { chromium } from 'playwright-core'

const [folder, eventkit, clicks] = process.argv.slice(2)
const types = { '.html': 'text/html', '.js': 'text/javascript' }

const site = createServer(async (request, response) => {
  const path = normalize(new URL(request.url, 'http://site').pathname)
  const name = path === '/' ? 'index.html' : path
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
await page.goto(`http://127.0.0.1:${site.address().port}/?eventkit=${encodeURIComponent(eventkit)}`)
for (let n = 0; n < Number(clicks); n += 1) await page.click('button')
await page.getByText(`stored ${clicks}`).waitFor({ timeout: 90_000 })
console.log(await page.textContent('p'))
process.stdin.resume()
await once(process.stdin, 'end')
await browser.close()
site.close()

//! Names under which strangers have names. A wildcard over one of them allows whoever registers there, and hands out the key where a
//! credential says so; a host that is written out is its owner's to judge.
//!
//! A list of those that matter, kept by hand, and not the public suffix list (publicsuffix.org): that changes by the week, so a sandbox would
//! be refused for what was no mistake when it was written, and it holds names that one provider alone fills, such as googleapis.com. What it
//! lacks is what matters most here: that regions and services stand between a provider's name and its customers'.

use crate::Host;

/// Right under these are names of strangers.
const SUFFIXES: &[&str] = &[
    "appspot.com",
    "azure-api.net",
    "azurecr.io",
    "azureedge.net",
    "azurefd.net",
    "azurestaticapps.net",
    "azurewebsites.net",
    "b-cdn.net",
    "bubbleapps.io",
    "cloudapp.net",
    "cloudfront.net",
    "cloudfunctions.net",
    "codesandbox.io",
    "cognitiveservices.azure.com",
    "csb.app",
    "database.windows.net",
    "deno.dev",
    "deno.net",
    "duckdns.org",
    "dyndns.org",
    "edgekey.net",
    "elementor.cloud",
    "fastly.net",
    "firebaseapp.com",
    "firebaseio.com",
    "fly.dev",
    "framer.app",
    "framer.website",
    "ghost.io",
    "github.dev",
    "github.io",
    "gitlab.io",
    "glitch.me",
    "herokuapp.com",
    "hf.space",
    "hosted.app",
    "in.th",
    "koyeb.app",
    "lhr.life",
    "loca.lt",
    "lovable.app",
    "medium.com",
    "modal.run",
    "myshopify.com",
    "ne.jp",
    "ne.kr",
    "netlify.app",
    "ngrok-free.app",
    "ngrok-free.dev",
    "ngrok.app",
    "ngrok.dev",
    "ngrok.io",
    "ngrok.pizza",
    "ngrok.pro",
    "no-ip.org",
    "notion.site",
    "ondigitalocean.app",
    "onrender.com",
    "openai.azure.com",
    "or.id",
    "or.jp",
    "or.kr",
    "or.th",
    "pages.dev",
    "pythonanywhere.com",
    "r2.dev",
    "readthedocs.io",
    "repl.co",
    "replit.app",
    "servicebus.windows.net",
    "services.ai.azure.com",
    "sharepoint.com",
    "stackblitz.io",
    "static.hf.space",
    "storage.googleapis.com",
    "streamlit.app",
    "supabase.co",
    "surge.sh",
    "translate.goog",
    "trycloudflare.com",
    "tumblr.com",
    "up.railway.app",
    "vault.azure.net",
    "vercel.app",
    "vercel.dev",
    "web.app",
    "web.id",
    "webcontainer.io",
    "webflow.io",
    "wixsite.com",
    "wordpress.com",
    "workers.dev",
    "zeabur.app",
    "zendesk.com",
];

/// Below these, at whatever depth, are names of strangers: a region, a service or an account stands between.
const FAMILIES: &[&str] = &[
    "amazonaws.com",
    "amazonaws.com.cn",
    "api.aws",
    "awsapprunner.com",
    "azurecontainer.io",
    "azurecontainerapps.io",
    "cloudapp.azure.com",
    "core.windows.net",
    "devtunnels.ms",
    "digitaloceanspaces.com",
    "elasticbeanstalk.com",
    "gitpod.io",
    "linodeobjects.com",
    "on.aws",
    "repl.dev",
    "replit.dev",
    "run.app",
];

/// Under these names countries have others register, as in co.uk.
const OF_COUNTRIES: &[&str] = &[
    "ac", "co", "com", "edu", "gob", "gouv", "gov", "govt", "ltd", "mil", "net", "nom", "org", "plc", "sch",
];

/// Whether strangers may have names right under this one.
pub(crate) fn have_names_under(base: &Host) -> bool {
    let base = base.as_str();
    let Some((label, top)) = base.split_once('.') else { return true };
    SUFFIXES.contains(&base)
        || FAMILIES.iter().any(|family| is_or_is_below(base, family))
        || (top.len() == 2 && OF_COUNTRIES.contains(&label))
}

/// Whether strangers may have names under this one, at whatever depth.
pub(crate) fn have_names_below(base: &Host) -> bool {
    let base_name = base.as_str();
    let mut all = SUFFIXES.iter().chain(FAMILIES);
    have_names_under(base) || all.any(|name| is_or_is_below(name, base_name))
}

fn is_or_is_below(name: &str, base: &str) -> bool {
    name.strip_suffix(base).is_some_and(|more| more.is_empty() || more.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use crate::HostPattern;

    fn is_taken(pattern: &str) -> bool {
        HostPattern::parse(pattern).is_ok()
    }

    #[test]
    fn p_b4_no_wildcard_reaches_what_strangers_register_at_a_provider() {
        for base in [
            "s3.us-east-1.amazonaws.com",
            "eu-west-1.amazonaws.com",
            "execute-api.us-east-1.amazonaws.com",
            "amazonaws.com",
            "lambda-url.us-east-1.on.aws",
            "hf.space",
            "appspot.com",
            "cloudfunctions.net",
            "deno.dev",
            "eastus.azurecontainerapps.io",
            "westus.cloudapp.azure.com",
            "openai.azure.com",
            "blob.core.windows.net",
            "ngrok.app",
            "ngrok.io",
            "gitpod.io",
            "ws-eu.gitpod.io",
            "a.run.app",
            "web.app",
            "pages.dev",
            "workers.dev",
            "vercel.app",
            "netlify.app",
            "github.io",
            "co.in",
            "com.sg",
            "org.nz",
            "gov.uk",
        ] {
            for wildcard in [format!("*.{base}"), format!("**.{base}")] {
                assert!(!is_taken(&wildcard), "{wildcard}");
            }
            assert!(is_taken(&format!("mine.{base}")), "{base}: a host that is written out");
        }
    }

    #[test]
    fn p_b4_a_wildcard_at_any_depth_stays_off_the_names_above_those_of_strangers() {
        for base in ["azure.com", "windows.net", "googleapis.com", "railway.app"] {
            assert!(!is_taken(&format!("**.{base}")) && is_taken(&format!("*.{base}")), "{base}");
        }
    }

    #[test]
    fn a_wildcard_over_names_of_ones_own_is_taken() {
        for base in [
            "acme.com",
            "acme.co.in",
            "me.github.io",
            "acme.vercel.app",
            "notamazonaws.com",
            "co.acme.com",
            "githubusercontent.com",
            "internal",
        ] {
            let taken = base.contains('.');
            for wildcard in [format!("*.{base}"), format!("**.{base}")] {
                assert_eq!(is_taken(&wildcard), taken, "{wildcard}");
            }
        }
    }
}

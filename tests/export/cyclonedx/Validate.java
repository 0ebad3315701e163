import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.cyclonedx.Version;
import org.cyclonedx.exception.ParseException;
import org.cyclonedx.model.Bom;
import org.cyclonedx.model.Component;
import org.cyclonedx.parsers.BomParserFactory;
import org.cyclonedx.parsers.Parser;

/** Validates and parses CycloneDX documents with the library by which Dependency-Track accepts uploads. */
public final class Validate {
    public static void main(String[] paths) throws Exception {
        boolean failed = false;
        for (String path : paths) {
            byte[] bytes = Files.readAllBytes(Path.of(path));
            Parser parser = BomParserFactory.createParser(bytes);
            List<ParseException> errors = parser.validate(bytes, Version.VERSION_16);
            for (ParseException error : errors) {
                failed = true;
                System.err.println(path + ": " + error.getMessage());
            }
            if (!errors.isEmpty()) {
                continue;
            }
            Bom bom = parser.parse(bytes);
            Set<String> known = new HashSet<>();
            collect(bom.getComponents(), known);
            if (bom.getVulnerabilities() != null) {
                for (var vulnerability : bom.getVulnerabilities()) {
                    for (var affected : vulnerability.getAffects()) {
                        if (!known.contains(affected.getRef())) {
                            failed = true;
                            System.err.println(path + ": affects an unknown component: " + affected.getRef());
                        }
                    }
                }
            }
        }
        System.out.println(paths.length + " documents parsed");
        System.exit(failed ? 1 : 0);
    }

    private static void collect(List<Component> components, Set<String> known) {
        if (components == null) {
            return;
        }
        for (Component component : components) {
            known.add(component.getBomRef());
            collect(component.getComponents(), known);
        }
    }
}

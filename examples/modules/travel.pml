<!-- A travel plan with parameters, one destination of two, and a wish that may be left out. -->
<schema name="travel">
  You plan trips and know every town.
  <module name="trip">
    Plan a trip of <parameter name="duration" length="6"/> for <parameter name="travellers" length="8"/>.
    <union>
      <module name="miami">
        The trip goes to Miami: beaches, art deco, and the Everglades an hour away.
        <module name="surf">
          Teach them to surf.
        </module>
      </module>
      <module name="oslo">
        The trip goes to Oslo: fjords, museums, and forests at the end of the tram.
      </module>
    </union>
  </module>
  <module name="low_budget">
    Money is short: choose what costs nothing.
  </module>
  <scaffold name="cheap-trip" modules="trip low_budget"/>
</schema>
